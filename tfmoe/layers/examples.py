"""Examples of several axes, such as images: flattened for the exchange, and shaped again.

Axes: D values of an example.
"""

import math

import tensorflow as tf


def flatten(inputs, example_shape):
    """Flattens the axes of examples.

    Args:
        inputs: `[..., *example_shape]`.
        example_shape: tuple of integers.

    Returns:
        `[..., D]`.
    """
    return with_last_axes(inputs, len(example_shape), (math.prod(example_shape),))


def unflatten(outputs, example_shape):
    """Converts `[..., D]` to `[..., *example_shape]`."""
    return with_last_axes(outputs, 1, example_shape)


def with_last_axes(x, num_axes, shape):
    """Replaces the last axes of a tensor by axes with as many elements."""
    if num_axes == len(shape) == 1:
        return x
    reshaped = tf.reshape(x, tf.concat([tf.shape(x)[:-num_axes], shape], axis=0))
    return tf.ensure_shape(reshaped, [*x.shape[:-num_axes], *shape])
