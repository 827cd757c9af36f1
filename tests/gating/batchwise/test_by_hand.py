"""Routings, losses and metrics of few tokens, by hand."""

import numpy as np
import pytest
import tensorflow as tf
from gating.batchwise.dense_routings import X, assignment_mask, built_gate, values_of
from gating.dense import dense_gates

from tfmoe.gating import Groups

PROBABILITY = np.array(
    [[0.60, 0.30, 0.10], [0.50, 0.10, 0.40], [0.20, 0.35, 0.45], [0.42, 0.28, 0.30]]
)
THRESHOLDS = np.array([0.55, 0.25, 0.5])


def gate_by_hand():
    """k = 1 of 3 experts; inputs are one-hot, so token t has the probabilities of row t."""
    gate = built_gate(3, input_dim=4, k=1)
    gate.kernels["gate_kernel"].assign(np.log(PROBABILITY))
    gate.log_thresholds.assign(np.log(THRESHOLDS))
    return gate


def test_training_by_hand():
    gate = gate_by_hand()
    with tf.GradientTape() as tape:
        routing = gate.route(tf.eye(4, dtype=tf.float64), training=True)
        loss = gate.loss(routing.sums)
    # m = ⌈1·4/3⌉ = 2. Expert 0 takes tokens 0 and 1, expert 1 tokens 2 and 0, expert 2 tokens 2 and
    # 1; no expert takes token 3. The sums are 0.6 + 0.3, 0.5 + 0.4, 0.35 + 0.45:
    expected = np.array([[6 / 9, 3 / 9, 0], [5 / 9, 0, 4 / 9], [0, 7 / 16, 9 / 16], [0, 0, 0]])
    np.testing.assert_allclose(dense_gates(routing, 4, 3), expected, rtol=1e-12)
    np.testing.assert_array_equal(routing.sums["load"], [2, 2, 2])
    importance = [11 / 9, 1 / 3 + 7 / 16, 4 / 9 + 9 / 16]
    np.testing.assert_allclose(routing.sums["importance"], importance, rtol=1e-12)
    # With the thresholds expert 0 has token 0 (1 is missing: 0.55 - 0.5), expert 1 has 0, 2 and 3
    # (3 is surplus: 0.28 - 0.25), expert 2 has none (0.5 - 0.45 and 0.5 - 0.4 are missing).
    assert loss.numpy() == pytest.approx((0.05 + 0.03 + 0.05 + 0.1) / 4, rel=1e-12)
    # The gradient with respect to T_i is (m - tokens over T_i) / 4, here (2 - 1, 2 - 3, 2 - 0) / 4;
    # log T_i gets the same gradient, without the factor T_i.
    gradient = tape.gradient(loss, gate.log_thresholds).numpy()
    np.testing.assert_allclose(gradient, [1 / 4, -1 / 4, 2 / 4], rtol=1e-12)
    # 4 pairs are over the thresholds, 6 are taken, 3 are both: (0, 0), (0, 1), (2, 1). With the
    # thresholds tokens 0 to 3 have 2, 0, 1, 1 experts.
    assert values_of(gate.measures(routing.sums)) == pytest.approx(
        {
            "threshold_precision": 3 / 4,
            "threshold_recall": 3 / 6,
            "experts_per_token": 1.0,
            "unrouted": 1 / 4,
        }
    )


def test_inference_by_hand():
    gate = gate_by_hand()
    routing = gate.route(tf.eye(4, dtype=tf.float64))
    np.testing.assert_array_equal(routing.assignments.tokens, [0, 0, 2, 3])
    np.testing.assert_array_equal(routing.assignments.counts, [1, 3, 0])
    np.testing.assert_allclose(routing.assignments.weights, [6 / 9, 3 / 9, 1, 1], rtol=1e-12)
    np.testing.assert_array_equal(routing.sums["load"], [1, 3, 0])
    np.testing.assert_allclose(routing.sums["importance"], [2 / 3, 7 / 3, 0], rtol=1e-12)
    measures = gate.measures(routing.sums)
    assert values_of(measures) == {"experts_per_token": 1.0, "unrouted": 0.25}


def test_a_probability_equal_to_the_threshold_is_not_selected():
    gate = built_gate(2, k=1)
    gate.kernels["gate_kernel"].assign(np.zeros((5, 2)))
    gate.log_thresholds.assign(np.log([0.5, 0.25]))
    thresholds = gate.thresholds.numpy()
    assert thresholds[0] == 0.5  # exactly, and so is softmax(0, 0)
    np.testing.assert_array_equal(assignment_mask(gate.route(tf.constant(X)), 11, 2), [[0, 1]] * 11)


# Groups of unequal sizes: by hand, with k = 1 of 2 experts in each of 3 groups.

# Token t has the probabilities of row t: 0, 2, 4 in group 0, none in group 1, 1 and 3 in group 2.
GROUP_ROWS = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3], [0.55, 0.45]])
SIZES = Groups(tf.constant([3, 0, 2]))


def group_gates_by_hand():
    gate = built_gate(2, k=1, num_groups=3)
    gate.kernels["gate_kernel"].assign(np.tile(np.log(GROUP_ROWS), (3, 1, 1)))
    gate.log_thresholds.assign(np.log([[0.5, 0.5], [0.1, 0.1], [0.5, 0.5]]))
    return gate


def test_training_in_groups_of_unequal_sizes_by_hand():
    gate = group_gates_by_hand()
    with tf.GradientTape() as tape:
        routing = gate.route(tf.eye(5, dtype=tf.float64), training=True, groups=SIZES)
        loss = gate.loss(routing.sums)
    # Group 0: m = ⌈1·3/2⌉ = 2, expert 0 takes 0.9 and 0.6, expert 1 takes 0.8 and 0.4. Group 2:
    # m = ⌈1·2/2⌉ = 1, expert 4 takes 0.7, expert 5 takes 0.45.
    expected = np.zeros((5, 6))
    expected[[0, 1, 1, 2, 3, 4], [0, 0, 1, 1, 4, 5]] = [1, 0.6, 0.4, 1, 1, 1]
    np.testing.assert_allclose(dense_gates(routing, 5, 6), expected, rtol=1e-12)
    np.testing.assert_array_equal(routing.assignments.counts, [2, 2, 0, 0, 1, 1])
    assert routing.assignments.rows_per_expert is None
    np.testing.assert_array_equal(routing.sums["tokens"], [3, 0, 2])
    np.testing.assert_array_equal(routing.sums["load"], [[2, 2], [0, 0], [1, 1]])
    importance = [[1.6, 1.4], [0, 0], [1, 1]]
    np.testing.assert_allclose(routing.sums["importance"], importance, rtol=1e-12)
    # 0.9, 0.6, 0.8, 0.7, 0.55 are over 0.5. The last of these is not taken (0.05); 0.4 and 0.45 are
    # taken, but not over the threshold (0.1 and 0.05).
    assert loss.numpy() == pytest.approx((0.05 + 0.1 + 0.05) / 5, rel=1e-12)
    # (m - tokens over the threshold) / 5.
    gradient = tape.gradient(loss, gate.log_thresholds).numpy()
    expected = np.array([[2 - 2, 2 - 1], [0, 0], [1 - 2, 1 - 0]]) / 5
    np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-15)
    measures = values_of(gate.measures(routing.sums))
    assert measures["threshold_precision"] == pytest.approx(4 / 5)
    assert measures["threshold_recall"] == pytest.approx(4 / 6)


def test_inference_in_groups_of_unequal_sizes_by_hand():
    gate = group_gates_by_hand()
    gate.log_thresholds.assign(np.log([[0.5, 0.3], [0.1, 0.1], [0.6, 0.5]]))
    routing = gate.route(tf.eye(5, dtype=tf.float64), groups=SIZES)
    # Token 1 is over both thresholds of group 0; token 4 is over no threshold of group 2.
    expected = np.zeros((5, 6))
    expected[[0, 1, 1, 2, 3], [0, 0, 1, 1, 4]] = [1, 0.6, 0.4, 1, 1]
    np.testing.assert_allclose(dense_gates(routing, 5, 6), expected, rtol=1e-12)
    np.testing.assert_array_equal(routing.sums["load"], [[2, 2], [0, 0], [1, 0]])
    np.testing.assert_array_equal(routing.sums["routed"], [3, 0, 1])
