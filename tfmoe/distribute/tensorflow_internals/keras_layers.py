"""What Keras knows of the layers around a layer and within it."""


def inner_layers(layer):
    """The layers that Keras tracks right within a layer; not those within them."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def outermost_layer(layer):
    """The layer or model whose call the running call of a layer is part of. Outside of a call Keras
    would enter one.
    """
    return layer._get_call_context().entry_layer
