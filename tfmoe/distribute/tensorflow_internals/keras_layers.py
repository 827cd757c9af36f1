"""Keras' records of the layers inside a layer and around its call."""


def inner_layers(layer):
    """The direct sublayers of a layer, as Keras tracks them."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def outermost_layer(layer):
    """The outermost layer or model of the current call. Must be called during a call: otherwise
    Keras would start a call context.
    """
    return layer._get_call_context().entry_layer
