"""Datasets of batches, in their order."""

import tensorflow as tf


def in_order(batches, count=None):
    """Returns batches in their order, read ahead.

    Args:
        batches: dataset.
        count: number of batches, or `None` if it is unknown. Reading raises
            `tf.errors.FailedPreconditionError` if there are more or fewer.
    """
    if count is not None:
        batches = batches.apply(tf.data.experimental.assert_cardinality(count))
    options = tf.data.Options()
    options.deterministic = True
    return batches.with_options(options).prefetch(tf.data.AUTOTUNE)
