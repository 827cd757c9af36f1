"""Sums by expert and by token; assignments sorted by token; weights that sum to 1."""

import numpy as np
import tensorflow as tf
from ops.assignments.small_assignments import (
    EQUAL,
    EXPERTS,
    VARYING,
    by_token,
    check,
    indexed_assignments,
)

from tfmoe.ops.assignments import Assignments, assign_tokens, renormalize_weights

# Sums, and assignments sorted by token.


def test_sums_by_expert_exclude_dropped_assignments():
    # Expert 0 has assignments 1 and 2; 0 and 3 are dropped.
    assignments = indexed_assignments(tf.constant([[3, 0], [0, 3]]), 3)
    values = tf.constant([1.0, 10.0, 100.0, 1000.0])
    np.testing.assert_array_equal(assignments.sum_by_expert(values), [11, 0, 0])
    np.testing.assert_array_equal(VARYING.sum_by_expert(values[:3]), [11, 0, 100])


def test_gradient_of_sums_by_expert():
    weights = tf.constant([[0.75, 0.25], [0.6, 0.4]])
    with tf.GradientTape() as tape:
        tape.watch(weights)
        assignments = assign_tokens(tf.constant([[0, 2], [2, 3]]), weights, 3)  # 3: dropped
        sums = assignments.sum_by_expert(assignments.weights)
        weighted = tf.reduce_sum(sums * [1.0, 10.0, 100.0])
    np.testing.assert_allclose(sums, [0.75, 0, 0.85], rtol=1e-6)
    np.testing.assert_array_equal(tape.gradient(weighted, weights), [[1, 100], [100, 0]])


def test_sums_by_token():
    values = tf.constant([1.0, 10.0, 100.0, 1000.0, 1e4, 1e5])
    # Indices of the assignments of tokens 0 to 2: 4 and 0, 1 and 3, 5 and 2.
    assignments = indexed_assignments(EXPERTS, 3)
    np.testing.assert_array_equal(assignments.sum_by_token(values), [10001, 1010, 100100])
    rows = tf.stack([values, -values], axis=1)
    expected = [[10001, -10001], [1010, -1010], [100100, -100100]]
    np.testing.assert_array_equal(assignments.sum_by_token(rows), expected)
    np.testing.assert_array_equal(VARYING.sum_by_token(values[:3]), [110, 0, 1])


def test_by_token_with_k_experts_per_token():
    experts, weights = tf.constant([[2, 0], [1, 2]]), tf.constant([[0.75, 0.25], [0.5, 0.5]])
    tokens, experts, weights = by_token(assign_tokens(experts, weights, 3))
    assert (tokens, experts, weights) == ([0, 0, 1, 1], [0, 2, 1, 2], [0.25, 0.75, 0.5, 0.5])


def test_by_token_sorts_by_token_then_expert():
    # Expert 0 has tokens 3 and 1, expert 1 none, expert 2 tokens 1 and 0.
    assignments = Assignments(
        tf.constant([3, 1, 1, 0]),
        tf.constant([1.0, 0.25, 0.75, 0.5]),
        tf.constant([2, 0, 2]),
        tf.constant(4),
    )
    tokens, experts, weights = by_token(assignments)
    assert (tokens, experts, weights) == ([0, 1, 1, 3], [2, 0, 2, 0], [0.5, 0.25, 0.75, 1.0])


def test_by_token_with_equal_rows_per_expert():
    assignments = EQUAL._replace(
        tokens=tf.constant([3, 1, 1, 0]), weights=tf.constant([1.0, 0.25, 0.75, 0.5])
    )
    tokens, experts, weights = by_token(assignments)
    assert (tokens, experts, weights) == ([0, 1, 1, 3], [1, 0, 1, 0], [0.5, 0.25, 0.75, 1.0])


def test_by_token_excludes_dropped_assignments():
    tokens, experts, weights = by_token(
        indexed_assignments(tf.constant([[3, 0], [1, 3], [3, 3]]), 3)
    )
    assert (tokens, experts, weights) == ([0, 1], [0, 1], [1.0, 2.0])


# Weights of a token that sum to 1.


def test_renormalized_weights_by_hand():
    # Token 0 has weights 0.25 and 2, token 1 has none, token 2 has 0.5.
    result = renormalize_weights(VARYING)
    np.testing.assert_allclose(result.weights, [1, 0.25 / 2.25, 2 / 2.25], rtol=1e-6)
    check(result, tokens=[2, 0, 0], counts=[2, 0, 1])
    # Tokens 0 to 2 have weights 0 and 1, 2 and 3, 4 and 5.
    result = renormalize_weights(indexed_assignments(EXPERTS, 3))
    expected = [1, 2 / 5, 5 / 9, 3 / 5, 0, 4 / 9]
    np.testing.assert_allclose(result.weights, expected, rtol=1e-6)


def test_renormalized_zero_weights_stay_zero():
    result = renormalize_weights(VARYING._replace(weights=tf.constant([0.0, 0.25, 0.75])))
    np.testing.assert_array_equal(result.weights, [0, 0.25, 0.75])


def test_gradient_of_renormalized_weights():
    # a / (a + b) has the gradient b / (a + b)², -a / (a + b)²; here a = 0.25 and b = 0.75.
    weights = tf.constant([0.5, 0.25, 0.75], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        first_two = renormalize_weights(VARYING._replace(weights=weights)).weights[:2]
    gradient = tf.convert_to_tensor(tape.gradient(first_two, weights))
    np.testing.assert_allclose(gradient, [0, 0.75, -0.25], atol=1e-12)
