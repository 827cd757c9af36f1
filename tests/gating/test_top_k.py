import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from gating.dense import assert_dense, float64_mixture

from tfmoe.gating import Groups, Hierarchical, TopK

# W_g is the identity, so the inputs are the logits; softmax: (4, 2, 1)/7, (1, 1, 3)/5.
X = np.log([[4.0, 2.0, 1.0], [1.0, 1.0, 3.0]])
TOKENS = np.random.default_rng(0).standard_normal((7, 3))


def built_gate(num_experts=3, **arguments):
    gate = TopK(num_experts=num_experts, dtype="float64", **arguments)
    gate.build((None, 3))
    gate.gate_kernel.assign(np.broadcast_to(np.eye(3), gate.gate_kernel.shape))
    return gate


def choices(routing):
    """`[T, K]` experts and `[T, K]` weights, in the order of the choices of each token."""
    assignments = routing.assignments
    return [
        tf.gather(values, assignments.slots).numpy()
        for values in (assignments.experts(), assignments.weights)
    ]


SIGMOIDS = np.array([[4 / 5, 2 / 3], [3 / 4, 1 / 2]])  # of logits log 4, log 2; log 3, log 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, [[4 / 6, 2 / 6], [3 / 4, 1 / 4]]),
        ({"renormalize": False}, [[4 / 7, 2 / 7], [3 / 5, 1 / 5]]),
        ({"renormalize": False, "scale": 16.0}, [[64 / 7, 32 / 7], [48 / 5, 16 / 5]]),
        ({"score": "sigmoid", "renormalize": False}, SIGMOIDS),
        ({"score": "sigmoid"}, SIGMOIDS / [[22 / 15], [5 / 4]]),
        ({"score": "sigmoid", "scale": 2.5}, 2.5 * SIGMOIDS / [[22 / 15], [5 / 4]]),
    ],
)
def test_weights_by_hand(arguments, expected):
    routing = built_gate(**arguments)(tf.constant(X))
    experts, weights = choices(routing)
    np.testing.assert_array_equal(experts, [[0, 1], [2, 0]])  # the lower id first in a tie
    np.testing.assert_allclose(weights, expected, rtol=1e-12)
    np.testing.assert_array_equal(routing.sums["load"], [2, 1, 1])


def test_a_bias_by_hand():
    gate = built_gate(use_bias=True)
    np.testing.assert_array_equal(gate.gate_bias.numpy(), [0, 0, 0])
    gate.gate_bias.assign(np.log([1.0, 1.0, 8.0]))
    experts, weights = choices(gate(tf.constant(X)))  # exp(logits): (4, 2, 8), (1, 1, 24)
    np.testing.assert_array_equal(experts, [[2, 0], [2, 0]])
    np.testing.assert_allclose(weights, [[8 / 12, 4 / 12], [24 / 25, 1 / 25]], rtol=1e-12)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_renormalized_softmax_is_the_softmax_of_the_largest_logits(k):
    """Mixtral and gpt-oss compute the one, Qwen3-MoE the other."""
    logits = np.random.default_rng(2).standard_normal((50, 8))
    largest = -np.sort(-logits, axis=1)[:, :k]
    expected = np.exp(largest) / np.exp(largest).sum(axis=1, keepdims=True)
    gate = TopK(num_experts=8, k=k, dtype="float64")
    warns = pytest.warns(UserWarning, match="renormalize=False")
    with warns if k == 1 else contextlib.nullcontext():
        gate.build((None, 8))
    gate.gate_kernel.assign(np.eye(8))
    np.testing.assert_allclose(choices(gate(tf.constant(logits)))[1], expected, rtol=1e-10)


def test_experts_differ_where_the_sigmoid_is_1():
    gate = TopK(num_experts=3, k=1, score="sigmoid", renormalize=False)
    gate.build((None, 3))
    gate.gate_kernel.assign(np.eye(3))
    experts, weights = choices(gate(tf.constant([[30.0, 40.0, 35.0]])))
    assert (experts[0, 0], weights[0, 0]) == (1, 1.0)


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_balancing_loss_is_its_weight_at_exact_balance(k, score):
    """Token t has its highest logits for experts t, t + 1, … (modulo 3)."""
    x = np.stack([np.roll([3.0, 2.0, 1.0], t) for t in range(3)])
    gate = built_gate(k=k, score=score, balance_weight=0.7, renormalize=False)
    loss = gate.loss(gate(tf.constant(x), training=True).sums)
    assert loss.numpy() == pytest.approx(0.7, rel=1e-12)


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_balancing_loss_against_numpy(score):
    """As in Transformers, `n · Σ_i f_i p_i` with f_i a sum over the choices, divided by k."""
    logits = TOKENS @ np.random.default_rng(3).standard_normal((3, 5))
    gate = TopK(num_experts=5, k=2, score=score, balance_weight=0.7, dtype="float64")
    gate.build((None, 5))
    gate.gate_kernel.assign(np.eye(5))
    scores = np.exp(logits) if score == "softmax" else 1 / (1 + np.exp(-logits))
    p = (scores / scores.sum(axis=1, keepdims=True)).mean(axis=0)
    selected = np.argsort(-logits, axis=1)[:, :2]
    f = np.array([np.mean(np.any(selected == expert, axis=1)) for expert in range(5)])
    loss = gate.loss(gate(tf.constant(logits), training=True).sums)
    assert loss.numpy() == pytest.approx(0.7 * 5 / 2 * f @ p, rel=1e-10)


def test_gradient_of_the_balancing_loss_by_hand():
    """Only p has a gradient: `n/(k·T) · p_ti · (f_i - Σ_j f_j p_tj)`."""
    gate = built_gate(balance_weight=1.0)
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = gate.loss(gate(x, training=True).sums)
    p = np.array([[4 / 7, 2 / 7, 1 / 7], [1 / 5, 1 / 5, 3 / 5]])
    f = np.array([1, 1 / 2, 1 / 2])
    expected = 3 / (2 * 2) * p * (f - (p @ f)[:, None])
    np.testing.assert_allclose(tape.gradient(loss, x), expected, rtol=1e-10)


@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_layer_equals_the_dense_formula(score, renormalize):
    gate = TopK(k=2, score=score, renormalize=renormalize, scale=1.5, use_bias=True)
    layer = float64_mixture(gate)

    def gate_values(x):
        logits = x @ layer.gate.gate_kernel.value + layer.gate.gate_bias.value
        scores = tf.nn.softmax(logits) if score == "softmax" else tf.nn.sigmoid(logits)
        second = tf.sort(logits, direction="DESCENDING")[:, 1:2]
        selected = tf.where(logits >= second, scores, 0.0)
        if renormalize:
            selected /= tf.reduce_sum(selected, axis=1, keepdims=True)
        return 1.5 * selected

    assert_dense(layer, TOKENS, gate_values)


def test_groups_by_hand():
    gate = built_gate(num_groups=2, use_bias=True, balance_weight=1.0)
    gate.gate_bias.assign([[0.0, 0.0, 0.0], np.log([1.0, 4.0, 1.0])])
    routing = gate(tf.constant(X), training=True, groups=Groups(tf.constant([1, 1])))
    experts, weights = choices(routing)  # of group 1: exp(logits) is (1, 4, 3)
    np.testing.assert_array_equal(experts, [[0, 1], [4, 5]])
    np.testing.assert_allclose(weights, [[4 / 6, 2 / 6], [4 / 7, 3 / 7]], rtol=1e-12)
    expected = [3 / 2 * (4 + 2) / 7, 3 / 2 * (4 + 3) / 8]
    np.testing.assert_allclose(gate.loss(routing.sums), expected, rtol=1e-12)


def test_at_both_levels_of_a_hierarchical_gate():
    gate = Hierarchical(2, TopK(k=2), TopK(k=1, renormalize=False)).for_experts(4)
    assert gate.num_selected == 2
    gate.build((None, 3))
    routing = gate(tf.cast(TOKENS, tf.float32), training=True)
    assert gate.loss(routing.sums).numpy() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score": "relu"}, "score must be one of 'softmax', 'sigmoid', got 'relu'"),
        ({"scale": 0}, "scale must be a finite number above 0, got 0"),
        ({"renormalize": 1}, "renormalize must be True or False, got 1"),
        ({"use_bias": None}, "use_bias must be True or False, got None"),
        ({"balance_weight": -1}, "balance_weight must be a finite number of at least 0, got -1"),
        ({"k": 4}, "k must be at most 3"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        TopK(num_experts=3, **arguments)


def test_configuration():
    gate = TopK(3, "sigmoid", False, 2.5, True, 0.1, jitter=0.1)
    restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(gate))
    assert restored.get_config() == gate.get_config()
