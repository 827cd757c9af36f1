"""The tokens that each expert takes."""

import numpy as np
import pytest
import tensorflow as tf
from gating.batchwise.dense_routings import (
    X,
    assignment_mask,
    batchwise_mask,
    built_gate,
    probability_of,
    values_of,
)
from gating.dense import dense_gates

from tfmoe.gating import Batchwise, Hierarchical


def tokens_of_experts(routing):
    """The tokens of each expert, sorted."""
    tokens, experts, _ = (values.numpy() for values in routing.assignments.by_token())
    return [tokens[experts == i] for i in range(len(routing.assignments.counts))]


@pytest.mark.parametrize(
    ("num_tokens", "num_experts", "k", "num_taken"),
    [
        (12, 4, 2, 6),
        (11, 4, 2, 6),  # 5.5
        (11, 6, 2, 4),  # 3.67
        (7, 5, 1, 2),  # 1.4
        (1, 6, 2, 1),  # 0.33
        (2, 6, 4, 2),  # 1.33
        (11, 6, 6, 11),  # all
        (1, 1, 1, 1),
        (3000, 64, 4, 188),  # 187.5
    ],
)
def test_every_expert_takes_its_best_tokens(num_tokens, num_experts, k, num_taken):
    gate = built_gate(num_experts, k=k)
    x = np.random.default_rng(1).standard_normal((num_tokens, 5))
    routing = gate.route(tf.constant(x), training=True)
    assert routing.assignments.tokens.shape == (num_experts * num_taken,)
    assert routing.assignments.rows_per_expert.numpy() == num_taken
    np.testing.assert_array_equal(routing.assignments.counts, [num_taken] * num_experts)
    np.testing.assert_array_equal(routing.sums["load"], [num_taken] * num_experts)
    mask = batchwise_mask(probability_of(gate, x), num_taken)
    np.testing.assert_array_equal(assignment_mask(routing, num_tokens, num_experts), mask)
    weighted = probability_of(gate, x) * mask
    total = weighted.sum(axis=1, keepdims=True)
    expected = np.divide(weighted, total, out=np.zeros_like(weighted), where=total > 0)
    gates = dense_gates(routing, num_tokens, num_experts)
    np.testing.assert_allclose(gates, expected, rtol=0, atol=1e-12)


def test_earlier_tokens_are_taken_in_a_tie():
    gate = built_gate(4, k=2)
    x = np.repeat(X[:1], 10, axis=0)
    routing = gate.route(tf.constant(x), training=True)
    np.testing.assert_array_equal(tokens_of_experts(routing), [range(5)] * 4)
    # Token 7 is better for some experts, which take it despite its position.
    probability = probability_of(gate, X[:2])
    x[7] = X[1]
    routing = gate.route(tf.constant(x), training=True)
    for i, tokens in enumerate(tokens_of_experts(routing)):
        better = probability[1, i] > probability[0, i]
        np.testing.assert_array_equal(tokens, [0, 1, 2, 3, 7] if better else range(5))


def test_k_equal_to_num_experts_is_the_softmax():
    gate = built_gate(4, k=4)
    routing = gate.route(tf.constant(X), training=True)
    np.testing.assert_allclose(dense_gates(routing, 11, 4), probability_of(gate), rtol=1e-12)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("groups", [None, 2])
def test_no_tokens(groups, training):
    gate = Batchwise(k=2, importance_weight=1.0)
    gate = gate if groups is None else Hierarchical(groups, gate)
    gate = gate.for_experts(8)
    routing = gate(tf.zeros([0, 3]), training=training)
    assert routing.assignments.weights.shape.num_elements() == 0
    np.testing.assert_array_equal(routing.sums["load"], [0] * 8)
    assert [values.shape for values in routing.assignments.by_token()] == [(0,)] * 3
    if training:
        assert gate.loss(routing.sums).numpy() == 0
    measures = values_of(gate.measures(routing.sums))
    assert measures and all(np.isfinite(value) for value in measures.values())


@pytest.mark.parametrize("groups", [None, 2])
def test_gradients_without_tokens(groups):
    gate = Batchwise(k=2, importance_weight=1.0)
    gate = gate if groups is None else Hierarchical(groups, gate)
    gate = gate.for_experts(8)
    gate.build((None, 3))
    with tf.GradientTape() as tape:
        routing = gate(tf.zeros([0, 3]), training=True)
        weights = routing.assignments.weights
        total = tf.add_n([gate.loss(routing.sums), tf.reduce_sum(weights)])
    for gradient in tape.gradient(total, gate.trainable_variables):
        assert gradient is None or not np.any(tf.convert_to_tensor(gradient).numpy())


@pytest.mark.parametrize("training", [False, True])
def test_one_expert_takes_every_token(training):
    """The probability is 1, which is not over the initial threshold 1."""
    gate = Batchwise(k=1, num_experts=1)
    gate.build((None, 5))
    assert gate.thresholds.numpy() == 1
    routing = gate.route(tf.constant(X, tf.float32), training=training)
    np.testing.assert_array_equal(dense_gates(routing, 11, 1), np.ones([11, 1]))
    measures = values_of(gate.measures(routing.sums))
    if not training:
        assert measures == {"experts_per_token": 1, "unrouted": 0}
