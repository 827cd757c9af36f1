"""Composed assignments of two levels; permutations."""

import numpy as np
import tensorflow as tf
from ops.assignments.small_assignments import by_token, check

from tfmoe.ops.assignments import Assignments, assign_tokens, compose, permute


def test_compose_by_hand():
    # Two groups of two experts. Group 0 has tokens 2 and 0, group 1 tokens 0 and 1: rows 0 to 3.
    outer = Assignments(
        tokens=tf.constant([2, 0, 0, 1]),
        weights=tf.constant([0.5, 0.25, 0.75, 1.0]),
        counts=tf.constant([2, 2]),
        num_tokens=tf.constant(3),
    )
    # Expert 0 has rows 0 and 1, expert 1 row 1, expert 2 none, expert 3 rows 2 and 3.
    inner = Assignments(
        tokens=tf.constant([0, 1, 1, 2, 3]),
        weights=tf.constant([1.0, 0.2, 0.8, 0.6, 0.4]),
        counts=tf.constant([2, 1, 0, 2]),
        num_tokens=tf.constant(4),
    )
    composed = compose(outer, inner)
    check(composed, tokens=[2, 0, 0, 0, 1], counts=[2, 1, 0, 2], num_tokens=3)
    np.testing.assert_allclose(composed.weights, [0.5, 0.05, 0.2, 0.45, 0.4], rtol=1e-6)
    # Token 0: 0.05 · y[1] + 0.2 · y[2] + 0.45 · y[3].
    y = tf.constant([[1.0], [10.0], [100.0], [1000.0], [1e4]])
    np.testing.assert_allclose(composed.combine(y), [[470.5], [4000], [0.5]], rtol=1e-6)


def test_compose_excludes_rows_that_the_outer_level_drops():
    # Token 0 goes to group 1, token 1 to no group.
    outer = assign_tokens(tf.constant([[1], [2]]), tf.constant([[0.5], [0.25]]), 2)
    inner = assign_tokens(tf.constant([[3, 2]]), tf.constant([[0.75, 0.25]]), 4)
    composed = compose(outer, inner)
    assert by_token(composed) == [[0, 0], [2, 3], [0.125, 0.375]]
    assert composed.num_tokens.numpy() == 2
    np.testing.assert_array_equal(composed.combine(tf.constant([[8.0], [16.0]])), [[7], [0]])


def test_gradient_of_composed_weights_is_that_of_a_product():
    outer_weights, inner_weights = tf.constant([[0.5], [0.25]]), tf.constant([[0.75], [2.0]])
    with tf.GradientTape() as tape:
        tape.watch([outer_weights, inner_weights])
        outer = assign_tokens(tf.constant([[1], [0]]), outer_weights, 2)  # rows: tokens 1, 0
        inner = assign_tokens(tf.constant([[0], [1]]), inner_weights, 2)
        composed = compose(outer, inner)
        total = tf.reduce_sum(composed.weights * [1.0, 10.0])
    np.testing.assert_array_equal(composed.weights, [0.25 * 0.75, 0.5 * 2])
    gradients = [
        tf.convert_to_tensor(gradient).numpy()
        for gradient in tape.gradient(total, [outer_weights, inner_weights])
    ]
    np.testing.assert_array_equal(gradients[0], [[10 * 2], [0.75]])
    np.testing.assert_array_equal(gradients[1], [[0.25], [10 * 0.5]])


def test_permute_and_its_gradient():
    x = tf.constant([1.0, 2.0, 3.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = permute(x, tf.constant([2, 0, 1]), tf.constant([1, 2, 0]))
        loss = tf.reduce_sum(y * [10.0, 100.0, 1000.0])
    np.testing.assert_array_equal(y, [3, 1, 2])
    np.testing.assert_array_equal(tape.gradient(loss, x), [100, 1000, 10])
