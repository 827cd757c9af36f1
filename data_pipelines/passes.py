"""Passes over a text: any count of them, resumed in the middle of a pass.

The seeds that shuffle pass p are made of a seed and p. So the batches depend only on the arguments,
and a resumed run reads the batches that an uninterrupted run would have read.
"""

import tensorflow as tf


def repeat_passes(one_pass, *, passes, start_batch, batches_in_a_pass):
    """Concatenates passes.

    Args:
        one_pass: function from the index of a pass, int64 `[]`, to its dataset of batches.
        passes: number of passes, counted from the first one. `None`: without end.
        start_batch: number of batches to skip. Whole passes are not read.
        batches_in_a_pass: number of batches in a pass, or `None` if it is unknown; then
            `start_batch` must be 0.

    Returns:
        Dataset of batches, in the same order each time it is read. If `batches_in_a_pass` is given,
        its cardinality is known, and reading raises `tf.errors.FailedPreconditionError` if a pass
        has more or fewer.
    """
    start_pass = 0
    if batches_in_a_pass is not None:
        start_pass, start_batch = divmod(start_batch, batches_in_a_pass)

    @tf.autograph.experimental.do_not_convert
    def seeded_pass(pass_index):
        tf.random.set_seed(1)  # of this function only: independent of the process's global seed
        batches = one_pass(pass_index)
        if batches_in_a_pass is None:
            return batches
        return batches.apply(tf.data.experimental.assert_cardinality(batches_in_a_pass))

    indices, size = tf.data.Dataset.counter(start_pass), tf.data.INFINITE_CARDINALITY
    if passes is not None:
        indices = indices.take(max(0, passes - start_pass))
    batches = indices.flat_map(seeded_pass).skip(start_batch)
    if batches_in_a_pass is not None:
        if passes is not None:
            size = max(0, (passes - start_pass) * batches_in_a_pass - start_batch)
        batches = batches.apply(tf.data.experimental.assert_cardinality(size))
    options = tf.data.Options()
    options.deterministic = True
    return batches.with_options(options).prefetch(tf.data.AUTOTUNE)


def seeds_of_pass(seed, pass_index, count):
    """Returns the seeds of a pass, int64 `[count]`.

    Args:
        seed: integer.
        pass_index: index of the pass, an int64 tensor `[]`.
        count: number of seeds; each depends on `count`.
    """
    return tf.random.stateless_uniform([count], [seed, pass_index], 0, 2**31 - 1, tf.int64)


def check_reading(*, shuffle, shuffle_buffer, passes, start_batch):
    """Raises `ValueError` for a value that is out of its range."""
    check_at_least(0, start_batch=start_batch)
    if shuffle:
        check_at_least(1, shuffle_buffer=shuffle_buffer)
    if passes is not None:
        check_at_least(1, passes=passes)


def check_at_least(least, **arguments):
    """Raises `ValueError` with the name of an argument that is less than `least`."""
    for name, value in arguments.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
