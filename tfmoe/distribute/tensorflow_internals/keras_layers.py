"""Keras' records of the layers inside a layer and around its call, and of an optimizer's steps."""


def inner_layers(layer):
    """The direct sublayers of a layer, as Keras tracks them."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def outermost_layer(layer):
    """The outermost layer or model of the current call. Must be called during a call: otherwise
    Keras would start a call context.
    """
    return layer._get_call_context().entry_layer


def accumulation(optimizer):
    """Where an optimizer is in the accumulation of gradients.

    Args:
        optimizer: a Keras optimizer.

    Returns:
        `(position, length)`: the number of batches since the last step of the optimizer, an integer
        scalar tensor (or 0), and the number of batches for one step, an integer.
    """
    while getattr(optimizer, "inner_optimizer", None) is not None:
        optimizer = optimizer.inner_optimizer
    length = optimizer.gradient_accumulation_steps or 1
    return (0, 1) if length == 1 else (optimizer._iterations.value % length, length)
