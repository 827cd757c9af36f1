import math

import numpy as np
import pytest
import tensorflow as tf

from tfmoe.gating import Groups, Hierarchical, NoisyTopK, Switch
from tfmoe.layers.mixing import limit_assignments

# W_g is the identity, so the inputs are the logits; softmax: (3/4, 1/4), (1/5, 4/5), (2/3, 1/3).
X = np.array([[math.log(3), 0.0], [0.0, math.log(4)], [math.log(2), 0.0]])


def built_gate(**arguments):
    gate = Switch(num_experts=2, dtype="float64", **arguments)
    gate.build((None, 2))
    kernel = gate.kernels["gate_kernel"]
    kernel.assign(np.broadcast_to(np.eye(2), kernel.shape))
    return gate


def test_the_weight_is_the_probability_before_the_selection():
    routing = built_gate()(tf.constant(X))
    tokens, experts, weights = routing.assignments.by_token()
    np.testing.assert_array_equal(tokens, [0, 1, 2])
    np.testing.assert_array_equal(experts, [0, 1, 0])
    np.testing.assert_allclose(weights, [3 / 4, 4 / 5, 2 / 3], rtol=1e-12)
    np.testing.assert_allclose(routing.sums["importance"], [3 / 4 + 2 / 3, 4 / 5], rtol=1e-12)
    np.testing.assert_array_equal(routing.sums["load"], [2, 1])


def test_balancing_loss_by_hand():
    gate = built_gate(balance_weight=0.5)
    loss = gate.loss(gate(tf.constant(X), training=True).sums)
    # f = (2/3, 1/3), p = mean probability: ((3/4 + 1/5 + 2/3) / 3, (1/4 + 4/5 + 1/3) / 3).
    p = ((3 / 4 + 1 / 5 + 2 / 3) / 3, (1 / 4 + 4 / 5 + 1 / 3) / 3)
    expected = 0.5 * 2 * (2 / 3 * p[0] + 1 / 3 * p[1])
    assert loss.numpy() == pytest.approx(expected, rel=1e-12)


def test_other_losses_by_hand():
    gate = built_gate(balance_weight=0.0, importance_weight=0.3, load_weight=0.7)
    loss = gate.loss(gate(tf.constant(X), training=True).sums)
    # CV² of a and b is (a - b)² / (a + b)². Importance sums selected probabilities, load sums all.
    importance = (3 / 4 + 2 / 3, 4 / 5)
    load = (3 / 4 + 1 / 5 + 2 / 3, 1 / 4 + 4 / 5 + 1 / 3)
    expected = sum(
        weight * (a - b) ** 2 / (a + b) ** 2 for weight, (a, b) in ((0.3, importance), (0.7, load))
    )
    assert loss.numpy() == pytest.approx(expected, rel=1e-12)
    assert gate.loss_as_level(gate(tf.constant(X)).sums) is None


def test_no_loss_without_a_weight():
    gate = built_gate(balance_weight=0.0)
    assert gate.loss(gate(tf.constant(X), training=True).sums) is None


def test_task_gradient_reaches_the_gate():
    gate = built_gate()
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(gate(tf.constant(X)).assignments.weights)
    assert np.abs(tape.gradient(total, gate.kernels["gate_kernel"]).numpy()).max() > 0.1


def test_empty_batch_has_a_finite_loss():
    gate = built_gate()
    assert gate.loss(gate(tf.zeros([0, 2], tf.float64), training=True).sums).numpy() == 0


def test_wrong_balance_weight():
    with pytest.raises(ValueError, match=r"balance_weight must be .* at least 0, got -1"):
        Switch(balance_weight=-1)


def test_random_initialization():
    gate = Switch(num_experts=8)
    gate.build((None, 64))
    assert np.std(gate.kernels["gate_kernel"].numpy()) > 0


def test_groups_by_hand():
    # Group 0 has tokens 0 and 1, group 1 token 2, group 2 none.
    gate = built_gate(balance_weight=0.5, num_groups=3)
    routing = gate(tf.constant(X), training=True, groups=Groups(tf.constant([2, 1, 0])))
    np.testing.assert_array_equal(routing.assignments.experts(), [0, 1, 2])
    np.testing.assert_array_equal(routing.assignments.tokens, [0, 1, 2])
    np.testing.assert_allclose(routing.assignments.weights, [3 / 4, 4 / 5, 2 / 3], rtol=1e-12)
    np.testing.assert_array_equal(routing.sums["tokens"], [2, 1, 0])
    np.testing.assert_array_equal(routing.sums["load"], [[1, 1], [1, 0], [0, 0]])
    # Group 0: f = (1/2, 1/2), p = ((3/4 + 1/5) / 2, (1/4 + 4/5) / 2); group 1: f = (1, 0).
    first = 2 * (1 / 2 * (3 / 4 + 1 / 5) / 2 + 1 / 2 * (1 / 4 + 4 / 5) / 2)
    second = 2 * 2 / 3
    expected = [0.5 * first, 0.5 * second, 0]
    np.testing.assert_allclose(gate.loss(routing.sums), expected, rtol=1e-12)


def hierarchical(**arguments):
    """A gate whose inputs are the logits of the two groups, and of the two experts in each."""
    gate = Hierarchical(2, **arguments).for_experts(4, dtype="float64")
    gate.build((None, 2))
    for weight in gate.trainable_weights:
        weight.assign(np.broadcast_to(np.eye(2), weight.shape))
    return gate


def test_at_both_levels_of_a_hierarchical_mixture():
    gate = hierarchical(primary=Switch(balance_weight=0.5))
    routing = gate(tf.constant(X), training=True)
    # Tokens 0 and 2 go to expert 0 of group 0, token 1 to expert 1 of group 1.
    tokens, experts, weights = routing.assignments.by_token()
    np.testing.assert_array_equal(tokens, [0, 1, 2])
    np.testing.assert_array_equal(experts, [0, 3, 0])
    np.testing.assert_allclose(weights, np.square([3 / 4, 4 / 5, 2 / 3]), rtol=1e-12)
    # Outer level as above. Group 0: f = (1, 0), p_0 = (3/4 + 2/3) / 2; group 1: f = (0, 1), 4/5.
    p = ((3 / 4 + 1 / 5 + 2 / 3) / 3, (1 / 4 + 4 / 5 + 1 / 3) / 3)
    outer = 0.5 * 2 * (2 / 3 * p[0] + 1 / 3 * p[1])
    inner = 0.5 * (2 * (3 / 4 + 2 / 3) / 2 + 2 * 4 / 5) / 2
    assert gate.loss(routing.sums).numpy() == pytest.approx(outer + inner, rel=1e-12)


def test_at_one_level_of_a_hierarchical_mixture():
    top_k = NoisyTopK(k=2, noise=False, importance_weight=0)
    gate = hierarchical(primary=top_k, secondary=Switch(balance_weight=0.5))
    loss = gate.loss(gate(tf.constant(X), training=True).sums)
    # Both groups have all three tokens: the mean loss is that of the flat gate.
    flat = built_gate(balance_weight=0.5)
    assert loss.numpy() == pytest.approx(flat.loss(flat(tf.constant(X)).sums).numpy(), rel=1e-12)
    gate = hierarchical(primary=Switch(balance_weight=0.5), secondary=top_k)
    loss = gate.loss(gate(tf.constant(X), training=True).sums)
    assert loss.numpy() == pytest.approx(flat.loss(flat(tf.constant(X)).sums).numpy(), rel=1e-12)


def kept_tokens(gate, training):
    """The tokens that the experts of a gate keep, of 5 tokens that all go to expert 0."""
    x = tf.constant(np.broadcast_to(X[:1], (5, 2)))
    assignments = gate(x, training=training).assignments
    return limit_assignments(assignments, gate, training).by_token()[0].numpy().tolist()


def test_capacity_by_hand():
    """5 tokens, 2 experts: `⌈1.0 · 5/2⌉` is 3 in training, `⌈1.6 · 5/2⌉` is 4 in evaluation."""
    arguments = {"capacity_factor": 1.0, "evaluation_capacity_factor": 1.6}
    gate = built_gate(**arguments, minimum_capacity=0)
    assert (kept_tokens(gate, True), kept_tokens(gate, False)) == ([0, 1, 2], [0, 1, 2, 3])
    gate = built_gate(**arguments)  # at least 4
    assert kept_tokens(gate, True) == kept_tokens(gate, False) == [0, 1, 2, 3]
    assert kept_tokens(built_gate(minimum_capacity=1), True) == [0, 1, 2, 3, 4]
