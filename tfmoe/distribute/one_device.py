"""Copies a distributed model to one device."""

import keras
import tensorflow as tf


def on_one_device(model: keras.Model) -> keras.Model:
    """Copies a model of a `MixedStrategy`, with all experts, for use without a strategy: for
    inference, inspection or export.

    With several workers every worker must call it.

    Args:
        model: a built Keras model.

    Returns:
        A model with the same class and weights, not compiled.

    Raises:
        ValueError: called in the scope of a strategy, where the copy would be distributed too.
    """
    if tf.distribute.has_strategy():
        raise ValueError("call on_one_device outside of strategy.scope()")
    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    copy = keras.saving.deserialize_keras_object(config)
    for target, source in zip(copy.weights, model.weights, strict=True):
        target.assign(source.numpy())
    return copy
