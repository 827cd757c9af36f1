"""Dropped assignments."""

import numpy as np
import pytest
import tensorflow as tf
from ops.assignments.small_assignments import EQUAL, EXPERTS, VARYING, X, check, indexed_assignments

from tfmoe.ops.assignments import assign_tokens, drop


def test_drop_with_k_experts_per_token_by_hand():
    # Sorted: assignments 1, 2, 5 of expert 0; 3 of expert 1; 0, 4 of expert 2.
    kept = tf.constant([True, False, True, False, True, True])
    dropped = drop(indexed_assignments(EXPERTS, 3), kept)
    check(
        dropped,
        weights=[1, 5, 0, 4, 2, 3],
        tokens=[0, 2, 0, 2, 1, 1],
        counts=[2, 0, 2],
        slots=[[2, 0], [4, 5], [3, 1]],
        num_tokens=3,
    )
    assert dropped.num_kept().numpy() == 4
    np.testing.assert_array_equal(dropped.experts(), [0, 0, 2, 2])
    # Token 0: 0 · y[2] + 1 · y[0]; token 1: nothing; token 2: 4 · y[3] + 5 · y[1].
    y = tf.constant([[1.0], [10.0], [100.0], [1000.0], [0.0], [0.0]])
    np.testing.assert_array_equal(dropped.combine(y), [[1], [0], [4050]])


def test_drop_twice():
    first = drop(
        indexed_assignments(EXPERTS, 3), tf.constant([True, False, True, True, True, True])
    )
    # Sorted: 1, 5 | 3 | 0, 4, then the dropped 2.
    dropped = drop(first, tf.constant([False, True, True, True, False, False]))
    check(dropped, weights=[5, 3, 0, 1, 4, 2], counts=[1, 1, 1], slots=[[2, 3], [5, 1], [4, 0]])


def test_drop_with_varying_experts_per_token_by_hand():
    dropped = drop(VARYING, tf.constant([False, True, True]))
    check(dropped, tokens=[0, 0, 2], weights=[0.25, 2, 0.5], counts=[1, 0, 1])
    assert dropped.slots is None
    # Token 0: 0.25 · 1 + 2 · 10; the row of token 2 is dropped.
    out = dropped.combine(tf.constant([[1.0], [10.0], [0.0]]))
    np.testing.assert_array_equal(out, [[20.25], [0], [0]])


def test_drop_resets_rows_per_expert():
    dropped = drop(EQUAL, tf.constant([True, True, True, False]))
    assert dropped.rows_per_expert is None
    check(dropped, counts=[2, 1], tokens=[2, 0, 0, 3])


@pytest.mark.parametrize("slots", [False, True])
def test_drop_nothing_or_everything(slots):
    assignments = indexed_assignments(EXPERTS, 3)
    assignments = assignments if slots else assignments._replace(slots=None)
    unchanged = drop(assignments, tf.ones([6], tf.bool))
    for a, b in zip(unchanged, assignments, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a, b)
    empty = drop(assignments, tf.zeros([6], tf.bool))
    check(empty, counts=[0, 0, 0], weights=assignments.weights)
    np.testing.assert_array_equal(empty.combine(tf.zeros([6, 2])), np.zeros([3, 2]))


def test_gradients_after_drop():
    x, weights = tf.identity(X), tf.constant([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    with tf.GradientTape() as tape:
        tape.watch([x, weights])
        kept = tf.constant([True, False, True, False, True, True])
        assignments = drop(assign_tokens(EXPERTS, weights, 3), kept)
        is_kept = tf.sequence_mask(assignments.num_kept(), 6, tf.float32)
        total = tf.reduce_sum(assignments.combine(assignments.dispatch(x) * is_kept[:, None]))
    dx, dweights = tape.gradient(total, [x, weights])
    # Both assignments of token 1 are dropped; 11, 22 and 33 are the sums of the rows.
    np.testing.assert_array_equal(dx, [[3, 3], [0, 0], [11, 11]])
    np.testing.assert_array_equal(dweights, [[11, 11], [0, 0], [33, 33]])
