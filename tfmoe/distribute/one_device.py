"""A copy of a distributed model that needs no strategy."""

import keras
import tensorflow as tf


def on_one_device(model):
    """Copies a model of a `MixedStrategy`, with all experts, for use outside of the strategy: to
    translate, to look into, to export on its own.

    With several workers all must call it.

    Args:
        model: a built Keras model.

    Returns:
        A model of the same class and weights, not compiled.

    Raises:
        ValueError: in the scope of a strategy, in which the copy would be distributed too.
    """
    if tf.distribute.has_strategy():
        raise ValueError("call on_one_device outside of strategy.scope()")
    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    copy = keras.saving.deserialize_keras_object(config)
    for mine, theirs in zip(copy.weights, model.weights, strict=True):
        mine.assign(theirs.numpy())
    return copy
