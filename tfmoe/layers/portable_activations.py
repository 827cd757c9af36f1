"""Activations out of operations that other runtimes have."""

from collections.abc import Callable

import keras
import tensorflow as tf

from tfmoe.distribute.static_shapes import portable_only


def portable(activation: Callable) -> Callable:
    """The same function without operations that tf2onnx or TensorFlow.js lack, in a graph for
    another runtime. Elsewhere the function itself.

    Args:
        activation: a function of a tensor, such as `keras.activations.gelu`.
    """
    return REPLACEMENTS.get(activation, activation) if portable_only() else activation


def gelu(x):
    """GELU without erfc: `x · (1 + erf(x / √2)) / 2`."""
    return 0.5 * x * (1 + tf.math.erf(x * 0.5**0.5))


def softsign(x):
    return x / (1 + tf.abs(x))


def celu(x):
    """CELU without expm1."""
    return tf.maximum(x, 0) + tf.exp(tf.minimum(x, 0)) - 1


REPLACEMENTS = {
    keras.activations.gelu: gelu,
    keras.activations.softsign: softsign,
    keras.activations.celu: celu,
}
