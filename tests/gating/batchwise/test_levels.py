"""`Batchwise` as a level of a hierarchical mixture."""

import numpy as np
import pytest
import tensorflow as tf
from gating.batchwise.dense_routings import (
    D,
    X,
    assignment_mask,
    batchwise_mask,
    built_gate,
    probability_of,
    softmax,
    tokens_per_expert,
    values_of,
)
from gating.dense import dense_gates

from tfmoe.gating import Batchwise, Hierarchical, NoisyTopK, Softmax


@pytest.mark.parametrize("primary", [NoisyTopK(k=2, noise=False), Batchwise(k=2)])
@pytest.mark.parametrize("training", [False, True])
def test_at_the_inner_level_each_group_is_a_batch(primary, training):
    gate = Hierarchical(3, primary, Batchwise(k=2)).for_experts(12, dtype="float64")
    gate.build((None, 5))
    rng = np.random.default_rng(2)
    for weight in gate.trainable_weights:
        values = rng.standard_normal(weight.shape)
        if weight.name == "log_thresholds":
            values = rng.uniform(-0.4, 0.2, weight.shape) - np.log(weight.shape[-1])
        weight.assign(values)
    routing = gate.route(tf.constant(X), training=training)
    outer = dense_gates(gate.primary.route(tf.constant(X), training=training), 11, 3)
    expected = np.zeros((11, 12))
    for i in range(3):
        rows = np.flatnonzero(outer[:, i])
        within = softmax(X[rows] @ gate.secondary.kernels["gate_kernel"].numpy()[i])
        if training:
            mask = batchwise_mask(within, tokens_per_expert(2, len(rows), 4))
        else:
            mask = within > np.exp(gate.secondary.log_thresholds.numpy()[i])
        weighted = within * mask
        total = weighted.sum(axis=1, keepdims=True)
        inner = np.divide(weighted, total, out=np.zeros_like(weighted), where=total > 0)
        expected[rows, 4 * i : 4 * i + 4] = outer[rows, i, None] * inner
    np.testing.assert_allclose(dense_gates(routing, 11, 12), expected, rtol=0, atol=1e-12)
    assert np.count_nonzero(expected) > 11
    sizes = np.count_nonzero(outer, axis=0)
    assert len({*sizes}) > 1 or isinstance(primary, Batchwise)


def test_hierarchical_loss_and_metrics_combine_both_levels():
    gate = Hierarchical(3, Batchwise(k=2), num_experts=12, dtype="float64")
    gate.build((None, D))
    rng = np.random.default_rng(2)
    for weight in gate.trainable_weights:
        values = rng.standard_normal(weight.shape)
        if weight.name == "log_thresholds":
            values = rng.uniform(-0.4, 0.2, weight.shape) - np.log(weight.shape[-1])
        weight.assign(values)
    routing = gate.route(tf.constant(X), training=True)

    def level(probability, thresholds, taken):
        over = probability > thresholds
        loss = np.sum((over - taken) * (probability - thresholds))
        return np.array([loss, over.sum(), taken.sum(), np.sum(over * taken)])

    probability = probability_of(gate.primary)
    mask = batchwise_mask(probability, 8)  # ⌈2·11/3⌉
    first = level(probability, np.exp(gate.primary.log_thresholds.numpy()), mask)
    second = np.zeros(4)
    for i in range(3):
        rows = np.flatnonzero(mask[:, i])
        within = softmax(X[rows] @ gate.secondary.kernels["gate_kernel"].numpy()[i])
        thresholds = np.exp(gate.secondary.log_thresholds.numpy()[i])
        second += level(within, thresholds, batchwise_mask(within, 4))  # ⌈2·8/4⌉
    # Each level's mean is over its own rows: 11 tokens, 3 groups of 8.
    loss = gate.loss(routing.sums)
    assert loss.numpy() == pytest.approx(first[0] / 11 + second[0] / 24, rel=1e-10)
    precision, recall = ((first[3] / first[j] + second[3] / second[j]) / 2 for j in (1, 2))
    assert values_of(gate.measures(routing.sums)) == pytest.approx(
        {"threshold_precision": precision, "threshold_recall": recall}
    )
    # In evaluation the metrics refer to the whole mixture.
    for level in (gate.primary, gate.secondary):
        level.log_thresholds.assign(level.log_thresholds + 0.6)
    routing = gate.route(tf.constant(X))
    experts_per_token = assignment_mask(routing, 11, 12).sum(axis=1)
    assert 0 < np.count_nonzero(experts_per_token) < 11
    assert values_of(gate.measures(routing.sums)) == pytest.approx(
        {"experts_per_token": experts_per_token.mean(), "unrouted": np.mean(experts_per_token == 0)}
    )


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("primary", "secondary"),
    [(Batchwise(k=2), NoisyTopK(2, 0, noise=False)), (Batchwise(k=1), Softmax())],
    ids=["noisy_top_k", "softmax"],
)
def test_at_the_outer_level_with_another_gate(primary, secondary, training):
    gate = Hierarchical(3, primary, secondary).for_experts(12, dtype="float64")
    gate.build((None, 5))
    rng = np.random.default_rng(2)
    for weight in gate.trainable_weights:
        values = rng.standard_normal(weight.shape)
        if weight.name == "log_thresholds":
            values = rng.uniform(-0.4, 0.2, weight.shape) - np.log(3)
        weight.assign(values)
    routing = gate.route(tf.constant(X), training=training)
    outer = dense_gates(gate.primary.route(tf.constant(X), training=training), 11, 3)
    logits = np.einsum("td,gde->tge", X, gate.secondary.kernels["gate_kernel"].numpy())
    kept = np.sort(logits, axis=-1)[..., -secondary.for_experts(4).num_selected, None]
    inner = softmax(np.where(logits >= kept, logits, -np.inf))
    expected = (outer[:, :, None] * inner).reshape(11, 12)
    np.testing.assert_allclose(dense_gates(routing, 11, 12), expected, rtol=0, atol=1e-12)
    if training:  # only the outer level has thresholds
        primary_loss = gate.primary.loss(routing.sums["outer"]).numpy()
        assert gate.loss(routing.sums).numpy() == pytest.approx(primary_loss, rel=1e-12)
        assert set(gate.measures(routing.sums)) == {"threshold_precision", "threshold_recall"}
    else:
        unrouted = np.mean(~outer.any(axis=1))
        assert values_of(gate.measures(routing.sums)) == pytest.approx(
            {"experts_per_token": np.count_nonzero(expected) / 11, "unrouted": unrouted}
        )


def test_groups_of_one_expert_each():
    """The primary gate alone decides, like a flat gate."""
    gate = Hierarchical(6, Batchwise(k=2), Batchwise(k=1)).for_experts(6, dtype="float64")
    gate.build((None, 5))
    flat = built_gate(6, k=2)
    gate.primary.kernels["gate_kernel"].assign(flat.kernels["gate_kernel"])
    gate.primary.log_thresholds.assign(flat.log_thresholds)
    for training in (False, True):
        actual, expected = (
            dense_gates(g.route(tf.constant(X), training=training), 11, 6) for g in (gate, flat)
        )
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)
        assert np.count_nonzero(expected) > 11
