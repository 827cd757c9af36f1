"""Rows in parts of equal size, against loops over experts.

Axes: A rows, E experts, N parts, C rows of a part.
"""

import numpy as np
import pytest
import tensorflow as tf

from tfmoe.ops.padded_rows import blocks, equal_parts, expert_of_rows

COUNTS = [[2, 0, 3], [0, 0, 0], [5, 0, 0], [0, 1, 4], [7, 0, 0], [1, 2, 4]]
A = 7
ROWS = np.arange(1, 2 * A + 1, dtype=np.float64).reshape(A, 2)


def rows_of_experts(counts):
    ends = np.cumsum(counts)
    return [ROWS[end - count : end] for count, end in zip(counts, ends, strict=True)]


@pytest.mark.parametrize("counts", COUNTS)
def test_expert_of_rows(counts):
    expected = np.repeat(np.arange(4), [*counts, A - sum(counts)])
    np.testing.assert_array_equal(expert_of_rows(tf.constant(counts), A), expected)


@pytest.mark.parametrize("counts", COUNTS)
def test_equal_parts(counts):
    size = max(*counts, 1) + 1
    padded = equal_parts(tf.constant(counts), A, size)
    parts = padded.pad(ROWS)
    for part, rows in zip(parts.numpy(), rows_of_experts(counts), strict=True):
        np.testing.assert_array_equal(part, np.pad(rows, [[0, size - len(rows)], [0, 0]]))
    check_unpad(padded, parts, counts)


@pytest.mark.parametrize("counts", COUNTS)
def test_blocks(counts):
    padded, experts = blocks(tf.constant(counts), A)
    parts = padded.pad(ROWS)
    num_experts, size = len(counts), parts.shape[1]
    assert size == A // num_experts
    assert len(parts) <= min(A // size + num_experts, A)
    for expert, rows in enumerate(rows_of_experts(counts)):
        of_expert = parts.numpy()[experts.numpy() == expert].reshape(-1, 2)
        np.testing.assert_array_equal(of_expert[of_expert[:, 0] > 0], rows)
    check_unpad(padded, parts, counts)


def check_unpad(padded, parts, counts):
    """`unpad` inverts `pad`, and is its transpose: both gradients follow from this."""
    num_rows = sum(counts)
    expected = np.where(np.arange(A)[:, None] < num_rows, ROWS, 0)
    np.testing.assert_array_equal(padded.unpad(parts), expected)
    other = tf.constant(np.random.default_rng(0).standard_normal(parts.shape))
    rows = tf.constant(ROWS)
    with tf.GradientTape() as tape:
        tape.watch([rows, other])
        loss = tf.reduce_sum(padded.pad(rows) * other)
    gradients = tape.gradient(loss, [rows, other])
    np.testing.assert_array_equal(gradients[0], padded.unpad(other))
    np.testing.assert_array_equal(gradients[1], parts)


@pytest.mark.parametrize("num_rows", [1, 2, 9, 40])
@pytest.mark.parametrize("num_experts", [1, 3, 8])
def test_there_are_enough_blocks_for_any_load(num_rows, num_experts):
    rng = np.random.default_rng(num_rows)
    rows = tf.ones([num_rows, 1])
    for _ in range(20):
        experts = np.sort(rng.choice(num_experts, num_rows, p=rng.dirichlet([0.3] * num_experts)))
        counts = np.bincount(experts, minlength=num_experts)
        padded, expert_of_block = blocks(tf.constant(counts, tf.int32), num_rows)
        assert float(tf.reduce_sum(padded.pad(rows))) == num_rows
        in_block = tf.reduce_sum(tf.cast(padded.is_row, tf.int32), axis=1)
        sums = tf.math.unsorted_segment_sum(in_block, expert_of_block, num_experts)
        np.testing.assert_array_equal(sums, counts)
