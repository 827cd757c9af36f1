"""Assignments without those that are dropped."""

import numpy as np
import pytest
import tensorflow as tf
from ops.assignments.small_assignments import DIFFERING, EQUAL, EXPERTS, X, check, numbered

from tfmoe.ops.assignments import assign_tokens, drop


def test_drop_of_k_experts_per_token_by_hand():
    # Sorted: assignments 1, 2, 5 of expert 0, 3 of expert 1, 0, 4 of expert 2.
    kept = tf.constant([True, False, True, False, True, True])
    found = drop(numbered(EXPERTS, 3), kept)
    check(
        found,
        weights=[1, 5, 0, 4, 2, 3],
        tokens=[0, 2, 0, 2, 1, 1],
        counts=[2, 0, 2],
        slots=[[2, 0], [4, 5], [3, 1]],
        num_tokens=3,
    )
    assert found.num_kept().numpy() == 4
    np.testing.assert_array_equal(found.experts(), [0, 0, 2, 2])
    # Token 0: 0 · y[2] + 1 · y[0]; token 1: nothing; token 2: 4 · y[3] + 5 · y[1].
    y = tf.constant([[1.0], [10.0], [100.0], [1000.0], [0.0], [0.0]])
    np.testing.assert_array_equal(found.combine(y), [[1], [0], [4050]])


def test_drop_twice_is_to_drop_both():
    first = drop(numbered(EXPERTS, 3), tf.constant([True, False, True, True, True, True]))
    # 1, 5 | 3 | 0, 4 and behind them 2.
    found = drop(first, tf.constant([False, True, True, True, False, False]))
    check(found, weights=[5, 3, 0, 1, 4, 2], counts=[1, 1, 1], slots=[[2, 3], [5, 1], [4, 0]])


def test_drop_of_differing_numbers_by_hand():
    found = drop(DIFFERING, tf.constant([False, True, True]))
    check(found, tokens=[0, 0, 2], weights=[0.25, 2, 0.5], counts=[1, 0, 1])
    assert found.slots is None
    # Token 0: 0.25 · 1 + 2 · 10; the row of token 2 is dropped.
    out = found.combine(tf.constant([[1.0], [10.0], [0.0]]))
    np.testing.assert_array_equal(out, [[20.25], [0], [0]])


def test_after_a_drop_experts_have_no_equal_numbers_of_rows():
    found = drop(EQUAL, tf.constant([True, True, True, False]))
    assert found.rows_per_expert is None
    check(found, counts=[2, 1], tokens=[2, 0, 0, 3])


@pytest.mark.parametrize("slots", [False, True])
def test_drop_nothing_or_everything(slots):
    assignments = numbered(EXPERTS, 3)
    assignments = assignments if slots else assignments._replace(slots=None)
    same = drop(assignments, tf.ones([6], tf.bool))
    for a, b in zip(same, assignments, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a, b)
    none = drop(assignments, tf.zeros([6], tf.bool))
    check(none, counts=[0, 0, 0], weights=assignments.weights)
    np.testing.assert_array_equal(none.combine(tf.zeros([6, 2])), np.zeros([3, 2]))


def test_drop_keeps_gradients_of_what_stays():
    x, weights = tf.identity(X), tf.constant([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    with tf.GradientTape() as tape:
        tape.watch([x, weights])
        kept = tf.constant([True, False, True, False, True, True])
        assignments = drop(assign_tokens(EXPERTS, weights, 3), kept)
        is_kept = tf.sequence_mask(assignments.num_kept(), 6, tf.float32)
        total = tf.reduce_sum(assignments.combine(assignments.dispatch(x) * is_kept[:, None]))
    dx, dweights = tape.gradient(total, [x, weights])
    # Token 1 has lost both of its experts; 11, 22 and 33 are the sums of the rows.
    np.testing.assert_array_equal(dx, [[3, 3], [0, 0], [11, 11]])
    np.testing.assert_array_equal(dweights, [[11, 11], [0, 0], [33, 33]])
