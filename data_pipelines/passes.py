"""Passes over a text: as often as asked for, and resumed in the middle of one.

Pass p is shuffled by seeds made of a seed and p. So the batches depend on the arguments alone, and
a run that begins at a batch later on sees what an uninterrupted one would see.
"""

import tensorflow as tf


def repeat_passes(one_pass, *, passes, start_batch, batches_in_a_pass):
    """Puts passes one behind the other.

    Args:
        one_pass: function from a pass's number, int64 `[]`, to its dataset of batches.
        passes: number of passes from the very first one. `None`: without end.
        start_batch: number of batches to leave out at the beginning. Whole passes are not read.
        batches_in_a_pass: how many there are, or `None` if that is not known; then `start_batch`
            must be 0.

    Returns:
        Dataset of batches, in the same order whenever it is read. If `batches_in_a_pass` is given,
        it knows its cardinality, and reading raises `tf.errors.FailedPreconditionError` if a pass
        has more or fewer.
    """
    start_pass = 0
    if batches_in_a_pass is not None:
        start_pass, start_batch = divmod(start_batch, batches_in_a_pass)

    @tf.autograph.experimental.do_not_convert
    def seeded_pass(number):
        tf.random.set_seed(1)  # of this function alone: the process's global seed has no say
        batches = one_pass(number)
        if batches_in_a_pass is None:
            return batches
        return batches.apply(tf.data.experimental.assert_cardinality(batches_in_a_pass))

    numbers, size = tf.data.Dataset.counter(start_pass), tf.data.INFINITE_CARDINALITY
    if passes is not None:
        numbers = numbers.take(max(0, passes - start_pass))
    batches = numbers.flat_map(seeded_pass).skip(start_batch)
    if batches_in_a_pass is not None:
        if passes is not None:
            size = max(0, (passes - start_pass) * batches_in_a_pass - start_batch)
        batches = batches.apply(tf.data.experimental.assert_cardinality(size))
    options = tf.data.Options()
    options.deterministic = True
    return batches.with_options(options).prefetch(tf.data.AUTOTUNE)


def seeds_of_pass(seed, number, count):
    """Returns the seeds of a pass, int64 `[count]`.

    Args:
        seed: integer.
        number: of the pass, an int64 tensor `[]`.
        count: how many seeds; each depends on `count`.
    """
    return tf.random.stateless_uniform([count], [seed, number], 0, 2**31 - 1, tf.int64)


def check_reading(*, shuffle, shuffle_buffer, passes, start_batch):
    """Raises `ValueError` for a value that is out of its range."""
    check_at_least(0, start_batch=start_batch)
    if shuffle:
        check_at_least(1, shuffle_buffer=shuffle_buffer)
    if passes is not None:
        check_at_least(1, passes=passes)


def check_at_least(least, **arguments):
    """Raises `ValueError` if an argument is less than `least`, naming it."""
    for name, value in arguments.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
