import numpy as np
import pytest
import tensorflow as tf

from tfmoe.ops import batched_rows
from tfmoe.ops.batched_rows import BatchedRows, batched_size

LARGE = 2**20  # elements of an expert for which a visit of the loop costs 56 rows


@pytest.mark.parametrize(
    ("counts", "size"),
    [
        ([16] * 4, 16),
        ([13] * 4, 16),  # a multiple of 8
        # Of size 16: 8 · (32 + 16) + (56 + 10) + 84 = 534. Of size 104 more, of the loop 660.
        ([16] * 7 + [100], 16),
        # Of size 400: 2 · (32 + 400) + 66 + 100 = 1030. Of the loop: 2 · 56 + 900 = 1012.
        ([400, 500], 0),
        ([0, 0], 0),
    ],
)
def test_size_by_hand(counts, size):
    assert batched_size(tf.constant(counts), LARGE) == size


def test_the_size_is_the_fastest_of_all():
    counts = np.random.default_rng(0).zipf(1.5, 50).clip(0, 300)
    visit = batched_rows.LOOPED + 1

    def time(size):
        rest = counts[counts > size] - size
        together = len(counts) * (batched_rows.BATCHED + size)
        return together + len(rest) * (visit + batched_rows.ADDED) + rest.sum()

    best = min(range(0, 304, 8), key=time)
    expected = best if time(best) < len(counts) * visit + counts.sum() else 0
    assert batched_size(tf.constant(counts, tf.int32), LARGE) == expected


def test_pad_and_unpad():
    rows = tf.reshape(tf.range(14.0), [7, 2])  # the last row has no expert
    batch = BatchedRows.of(tf.constant([1, 0, 4, 1]), tf.constant(2))
    padded = batch.pad(rows)
    np.testing.assert_array_equal(
        padded,
        [[[0, 1], [0, 0]], [[0, 0], [0, 0]], [[2, 3], [4, 5]], [[10, 11], [0, 0]]],
    )
    first = np.array([0, 1, 2, 5])
    np.testing.assert_array_equal(batch.unpad(padded).numpy()[first], rows.numpy()[first])
    np.testing.assert_array_equal(batch.rows_of_rest(), [3, 4])
    np.testing.assert_array_equal(batch.rest, [0, 0, 2, 0])
