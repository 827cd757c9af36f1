"""Gradients of tables, of which a step uses some rows: embeddings, the kernel of a sampled softmax.

TensorFlow's gradient of `tf.gather` is a `tf.IndexedSlices` with one row for each lookup: a word
that occurs n times has n rows. Keras' Adam would square each of them, where the gradient of the
word is their sum.

Axes: N rows of a gradient, U different rows, V rows of the table.
"""

from typing import Any

import tensorflow as tf


def sum_rows(gradient: Any, as_dense: bool = False) -> Any:
    """Adds up the rows of a gradient that belong to the same row of the table.

    An optimizer then treats the table as it treats a dense gradient, and norms are those of the
    summed gradient.

    Args:
        gradient: `tf.IndexedSlices` with values `[N, ...]` and indices `[N]`, in any order. A
            dense tensor, or `None`, is returned unchanged.
        as_dense: whether to return a tensor `[V, ...]`, whose shape does not depend on values.

    Returns:
        `tf.IndexedSlices` with values `[U, ...]` and different indices `[U]`, in the order of
        their first occurrence; or a tensor.

    Example:
        >>> import tensorflow as tf
        >>> from tfmoe.ops.tables import sum_rows
        >>> gradient = tf.IndexedSlices(tf.constant([[1.0], [2.0], [4.0]]), [7, 3, 7], [9, 1])
        >>> summed = sum_rows(gradient)
        >>> summed.indices.numpy().tolist(), summed.values.numpy().tolist()
        ([7, 3], [[5.0], [2.0]])
    """
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    if as_dense:
        return tf.convert_to_tensor(gradient)
    indices, positions = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(gradient.values, positions, tf.size(indices))
    values = tf.ensure_shape(values, [None, *gradient.values.shape[1:]])
    return tf.IndexedSlices(values, indices, gradient.dense_shape)
