"""Assignments that a mask of tokens and experts selects."""

import numpy as np
import pytest
import tensorflow as tf
from ops.assignments.small_assignments import check

from tfmoe.ops.assignments import assign_mask

PROBABILITY = tf.constant([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6]])


def test_mask_by_hand():
    mask = tf.constant([[True, True], [False, False], [False, True], [True, True]])
    assignments = assign_mask(mask, PROBABILITY)
    check(assignments, tokens=[0, 3, 0, 2, 3], counts=[2, 3], num_tokens=4)
    np.testing.assert_allclose(assignments.weights, [0.1, 0.4, 0.9, 0.7, 0.6])
    assert assignments.slots is None
    assert assignments.counts.shape == (2,)


def test_gradient_reaches_the_selected_probabilities():
    mask = tf.constant([[True, True], [False, False], [False, True], [True, True]])
    probability = tf.identity(PROBABILITY)
    with tf.GradientTape() as tape:
        tape.watch(probability)
        weights = assign_mask(mask, probability).weights
        total = tf.reduce_sum(weights * [1.0, 2.0, 3.0, 4.0, 5.0])
    gradient = tf.convert_to_tensor(tape.gradient(total, probability))
    np.testing.assert_array_equal(gradient, [[1, 3], [0, 0], [0, 4], [2, 5]])


def test_mask_over_the_experts_of_groups():
    # Rows 0 and 1 belong to group 0 (experts 0, 1), row 2 to group 1, row 3 to group 3.
    mask = tf.constant([[False, True], [True, True], [True, False], [True, True]])
    assignments = assign_mask(mask, PROBABILITY, tf.constant([0, 0, 2, 6]), 8)
    check(assignments, tokens=[1, 0, 1, 2, 3, 3], counts=[1, 2, 1, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(assignments.experts(), [0, 1, 1, 2, 6, 7])
    np.testing.assert_allclose(assignments.weights, [0.2, 0.9, 0.8, 0.3, 0.4, 0.6])


@pytest.mark.parametrize("num_tokens", [0, 3])
def test_mask_that_selects_nothing(num_tokens):
    assignments = assign_mask(tf.zeros([num_tokens, 2], tf.bool), tf.ones([num_tokens, 2]), 0, 2)
    assert assignments.tokens.shape == assignments.weights.shape == (0,)
    check(assignments, counts=[0, 0], num_tokens=num_tokens)
