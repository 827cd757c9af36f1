"""Masked positions of `MoE`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from layers.small_mixtures import D, metric_values, randomize, run, set_thresholds

from tfmoe.gating import Batchwise, NoisyTopK
from tfmoe.layers import MoE


def reset_noise(layer):
    for variable in layer.non_trainable_variables:
        if "seed_generator" in variable.path:
            variable.assign([9, 0])


MASK = np.array([[True, True, False, False], [True, False, False, True]])


@pytest.mark.parametrize("capacity_factor", [None, 0.75])
@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize("training", [False, True])
def test_masked_positions_are_not_counted(groups, training, capacity_factor):
    gate = NoisyTopK(k=2, importance_weight=0.3, load_weight=0.2)
    factors = {"capacity_factor": capacity_factor, "evaluation_capacity_factor": capacity_factor}
    layer = randomize(MoE(4, 7, gate=gate, groups=groups, metrics="all", name="moe", **factors))
    x = np.random.default_rng(0).standard_normal((2, 4, D)).astype("float32")
    reset_noise(layer)
    expected = run(layer, x[MASK], training).numpy()
    expected_losses, expected_metrics = [v.numpy() for v in layer.losses], metric_values(layer)
    padded = np.where(MASK[..., None], x, np.nan).astype("float32")
    reset_noise(layer)
    outputs = run(layer, padded, training, mask=tf.constant(MASK)).numpy()
    np.testing.assert_array_equal(outputs[MASK], expected)
    np.testing.assert_array_equal(outputs[~MASK], 0)
    np.testing.assert_array_equal([v.numpy() for v in layer.losses], expected_losses)
    assert len(expected_losses) == (1 if training else 0)
    assert metric_values(layer) == expected_metrics
    assert expected_metrics["moe_max_over_mean_load"] >= 1


def test_masked_positions_get_no_gradient():
    layer = randomize(MoE(4, 7, gate=NoisyTopK(k=2)))
    x = tf.random.stateless_normal([2, 4, D], [1, 2])
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(layer(x, mask=tf.constant(MASK)) ** 2)
    gradient = tape.gradient(total, x).numpy()
    np.testing.assert_array_equal(gradient[~MASK], 0)
    assert np.all(np.abs(gradient[MASK]).max(axis=-1) > 0)


@pytest.mark.parametrize("groups", [None, 2])
def test_a_batch_of_padding_only(groups):
    gate = NoisyTopK(k=2, importance_weight=0.3, load_weight=0.2)
    layer = randomize(MoE(4, 7, gate=gate, groups=groups, capacity_factor=1.0))
    with tf.GradientTape() as tape:
        y = layer(tf.ones([2, 3, D]), mask=tf.zeros([2, 3], tf.bool), training=True)
        total = tf.reduce_sum(y) + sum(layer.losses)
    np.testing.assert_array_equal(y.numpy(), np.zeros([2, 3, D]))
    assert total.numpy() == 0
    for gradient in tape.gradient(total, layer.trainable_variables):
        assert gradient is None or np.all(np.isfinite(tf.convert_to_tensor(gradient).numpy()))
    assert all(np.isfinite(value) for value in metric_values(layer).values())


@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize("training", [False, True])
def test_masked_positions_are_not_counted_in_batchwise_gating(groups, training):
    gate = Batchwise(k=2, importance_weight=0.3)
    layer = randomize(MoE(6, 7, gate=gate, groups=groups, metrics="all", name="moe"))
    set_thresholds(layer, 1.0)
    x = np.random.default_rng(0).standard_normal((2, 4, D)).astype("float32")
    x[~MASK] = 100 * x[MASK]  # experts would take these first
    expected = run(layer, x[MASK], training).numpy()
    expected_losses, expected_metrics = [v.numpy() for v in layer.losses], metric_values(layer)
    outputs = run(layer, x, training, mask=tf.constant(MASK)).numpy()
    np.testing.assert_array_equal(outputs[MASK], expected)
    np.testing.assert_array_equal(outputs[~MASK], 0)
    np.testing.assert_array_equal([v.numpy() for v in layer.losses], expected_losses)
    assert len(expected_losses) == (1 if training else 0)
    assert metric_values(layer) == expected_metrics
    names = {"threshold_precision", "threshold_recall"} if training else {"unrouted"}
    assert {f"moe_{name}" for name in names} <= set(expected_metrics)


@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize("training", [False, True])
def test_a_batch_of_padding_only_in_batchwise_gating(groups, training):
    layer = randomize(MoE(4, 7, gate=Batchwise(k=2, importance_weight=0.3), groups=groups))
    with tf.GradientTape() as tape:
        y = run(layer, tf.ones([2, 3, D]), training, mask=tf.zeros([2, 3], tf.bool))
        total = tf.reduce_sum(y) + sum(layer.losses)
    np.testing.assert_array_equal(y.numpy(), np.zeros([2, 3, D]))
    assert total.numpy() == 0
    for gradient in tape.gradient(total, layer.trainable_variables):
        assert gradient is None or not np.any(tf.convert_to_tensor(gradient).numpy())
    assert all(np.isfinite(value) for value in metric_values(layer).values())


def test_mask_of_the_first_axes_is_broadcast():
    layer = randomize(MoE(4, 7, gate=NoisyTopK(k=2)))
    x = tf.random.stateless_normal([2, 4, 3, D], [1, 2])
    full = np.broadcast_to(MASK[:, :, None], [2, 4, 3])
    expected = layer(x, mask=tf.constant(full)).numpy()
    np.testing.assert_array_equal(layer(x, mask=tf.constant(MASK)).numpy(), expected)
    assert np.abs(expected[MASK]).min(axis=-1).max() > 0


def test_mask_of_an_embedding_is_used_and_passed_on():
    inputs = keras.Input([None], dtype="int32")
    embedded = keras.layers.Embedding(9, D, mask_zero=True)(inputs)
    moe = MoE(4, 7, gate=NoisyTopK(k=2))
    outputs = moe(embedded)
    assert outputs._keras_mask is not None
    y = keras.Model(inputs, outputs)(np.array([[3, 4, 0], [5, 0, 0]])).numpy()
    np.testing.assert_array_equal(y[[0, 1, 1], [2, 1, 2]], 0)
    assert np.abs(y[[0, 0, 1], [0, 1, 0]]).max(axis=-1).min() > 0
