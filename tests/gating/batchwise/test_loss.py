"""The loss of `Batchwise`, and the weights that it trains."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from gating.batchwise.dense_routings import (
    X,
    batchwise_mask,
    built_gate,
    probability_of,
    values_of,
)
from gating.dense import dense_gates

from tfmoe.gating import Batchwise
from tfmoe.layers import MoE


def loss_of(gate):
    return gate.loss(gate.route(tf.constant(X), training=True).sums)


@pytest.mark.parametrize("seed", range(8))
def test_loss_is_the_mean_of_eq_20_and_not_negative(seed):
    gate = built_gate(6, k=2)
    rng = np.random.default_rng(seed)
    gate.log_thresholds.assign(np.log(rng.uniform(0.02, 0.6, 6)))
    routing = gate.route(tf.constant(X), training=True)
    probability, thresholds = probability_of(gate), gate.thresholds.numpy()
    taken = batchwise_mask(probability, 4)
    over = probability > thresholds
    expected = ((over - taken) * (probability - thresholds)).sum() / len(X)
    assert gate.loss(routing.sums).numpy() == pytest.approx(expected, rel=1e-10)
    assert gate.loss(routing.sums).numpy() > 0
    measures = values_of(gate.measures(routing.sums))
    both = np.sum(over * taken)
    assert measures == pytest.approx(
        {
            "threshold_precision": both / over.sum(),
            "threshold_recall": both / 24,
            "experts_per_token": over.sum() / 11,
            "unrouted": np.mean(~over.any(axis=1)),
        }
    )


def test_loss_is_zero_if_the_masks_agree():
    gate = built_gate(6, k=2)
    ordered = -np.sort(-probability_of(gate), axis=0)
    gate.log_thresholds.assign(np.log((ordered[3] + ordered[4]) / 2))  # m = 4
    with tf.GradientTape() as tape:
        training = gate.route(tf.constant(X), training=True)
        loss = gate.loss(training.sums)
    assert loss.numpy() == pytest.approx(0, abs=1e-15)
    gradient = tape.gradient(loss, gate.log_thresholds).numpy()
    np.testing.assert_allclose(gradient, 0, atol=1e-15)
    measures = values_of(gate.measures(training.sums))
    assert (measures["threshold_precision"], measures["threshold_recall"]) == (1, 1)
    inference = gate.route(tf.constant(X))
    gates = dense_gates(training, 11, 6)
    np.testing.assert_allclose(dense_gates(inference, 11, 6), gates, rtol=1e-12)
    # A threshold shifted past one token: the masks disagree and the loss is positive.
    log_thresholds = gate.log_thresholds.numpy()
    for other in (2, 5):
        shifted = log_thresholds.copy()
        shifted[1] = np.log(ordered[other, 1] + (1e-9 if other == 2 else -1e-9))
        gate.log_thresholds.assign(shifted)
        assert loss_of(gate).numpy() > 1e-6


def test_gradient_of_the_thresholds():
    gate = built_gate(6, k=2)
    ordered = -np.sort(-probability_of(gate), axis=0)
    admitted = np.array([4, 7, 0, 3, 11, 5])  # m = 4
    # Just below the last admitted token.
    below = ordered[np.maximum(admitted, 1) - 1, np.arange(6)] * 0.999
    gate.log_thresholds.assign(np.log(np.where(admitted > 0, below, 1.01)))
    with tf.GradientTape() as tape:
        loss = loss_of(gate)
    gradient = tape.gradient(loss, gate.log_thresholds).numpy()
    # The gradient with respect to T, by which log T is updated.
    np.testing.assert_allclose(gradient, (4 - admitted) / 11, rtol=1e-12, atol=1e-15)


def gradients_of_loss_and_task(layer):
    """The gradients with respect to the inputs and every trainable variable."""
    x = tf.constant(X)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        task = tf.reduce_sum(tf.sin(layer(x, training=True)))
        loss = tf.add_n(layer.losses)
    sources = [x, *layer.trainable_variables]
    return [
        {
            getattr(source, "path", "inputs"): None if value is None else np.array(value)
            for source, value in zip(sources, tape.gradient(target, sources), strict=True)
        }
        for target in (loss, task)
    ]


@pytest.mark.parametrize("groups", [None, 2])
def test_only_the_loss_trains_the_thresholds_and_it_trains_nothing_else(groups):
    layer = MoE(6, 7, gate=Batchwise(k=2), groups=groups, dtype="float64")
    layer.build((None, 5))
    by_loss, by_task = gradients_of_loss_and_task(layer)
    thresholds = {name for name in by_loss if name.endswith("log_thresholds")}
    assert len(thresholds) == (1 if groups is None else 2)
    for name, gradient in by_loss.items():
        is_zero = gradient is None or not np.any(gradient)
        assert is_zero != (name in thresholds), name
    for name, gradient in by_task.items():
        is_zero = gradient is None or not np.any(gradient)
        assert is_zero == (name in thresholds), name


def test_loss_is_the_sum_of_importance_and_threshold_losses():
    gate = built_gate(6, k=2, importance_weight=0.3)
    sums = gate(tf.constant(X), training=True).sums
    importance = sums["importance"].numpy()
    threshold_loss = loss_of(built_gate(6, k=2)).numpy()
    expected = 0.3 * importance.var() / importance.mean() ** 2 + threshold_loss
    assert gate.loss(sums).numpy() == pytest.approx(expected, rel=1e-12)
    # As a level, without the importance loss, which a hierarchical mixture has for all experts.
    assert gate.loss_as_level(sums).numpy() == pytest.approx(threshold_loss, rel=1e-12)


def test_importance_loss_reaches_the_kernel():
    gate = built_gate(6, k=2, importance_weight=1.0)

    def importance_loss():
        sums = gate.route(tf.constant(X), training=True).sums
        return gate.loss(sums) - gate.loss_as_level(sums)

    with tf.GradientTape() as tape:
        loss = importance_loss()
    kernel = gate.kernels["gate_kernel"]
    gradient, values = tape.gradient(loss, kernel).numpy(), kernel.numpy()
    for i in [(0, 0), (2, 3), (4, 5)]:
        sides = []
        for step in (1e-6, -1e-6):
            shifted = values.copy()
            shifted[i] += step
            kernel.assign(shifted)
            sides.append(importance_loss().numpy())
        assert gradient[i] == pytest.approx((sides[0] - sides[1]) / 2e-6, abs=1e-8)
    assert np.abs(gradient).max() > 1e-3


@pytest.mark.parametrize(("k", "num_experts"), [(1, 4), (2, 8)])
def test_thresholds_converge_to_the_batchwise_mask(k, num_experts):
    gate = Batchwise(k=k, num_experts=num_experts)
    gate.build((None, 5))
    rng = np.random.default_rng(3)
    gate.kernels["gate_kernel"].assign(rng.standard_normal((5, num_experts)))
    x = tf.constant(rng.standard_normal((400, 5)), tf.float32)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.05, 300))

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = gate.loss(gate.route(x, training=True).sums)
        gradient = tape.gradient(loss, gate.log_thresholds)
        optimizer.apply_gradients([(gradient, gate.log_thresholds)])
        return loss

    losses = [float(step()) for _ in range(300)]
    assert losses[-1] < 1e-3 * losses[0]
    measures = values_of(gate.measures(gate.route(x, training=True).sums))
    assert measures["threshold_precision"] > 0.98
    assert measures["threshold_recall"] > 0.98
    assert measures["experts_per_token"] == pytest.approx(k, rel=0.02)
    # The metrics in training equal those at inference.
    at_inference = values_of(gate.measures(gate.route(x).sums))
    assert set(at_inference) == {"experts_per_token", "unrouted"}
    for name, value in at_inference.items():
        assert measures[name] == pytest.approx(value, abs=1e-6)
