"""Capacity, metrics and losses of `MoE`."""

import numpy as np
import pytest
import tensorflow as tf
from layers.small_mixtures import D, metric_values, randomize, run, set_thresholds

from tfmoe.gating import Batchwise, NoisyTopK
from tfmoe.layers import MoE

pytestmark = pytest.mark.filterwarnings("ignore:NoisyTopK with k=1")


def two_expert_layer(capacity_factor, **options):
    """Tokens (1, 0) go to expert 0, tokens (0, 1) to expert 1."""
    gate = NoisyTopK(k=1, noise=False)
    options["capacity_factor"] = capacity_factor
    layer = randomize(MoE(2, 7, gate=gate, metrics="all", name="moe", **options), 2)
    layer.gate.kernels["gate_kernel"].assign(np.eye(2))
    return layer


FOUR_TOKENS = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [3.0, 0.0]], "float32")


@pytest.mark.parametrize(
    ("capacity_factor", "dropped_tokens", "loads"),
    [
        # Tokens 0, 1, 3 go to expert 0, token 2 to expert 1. The capacity is:
        (None, [], (3, 1)),
        (2.0, [], (3, 1)),  # ceil(2·4/2) = 4
        (1.25, [], (3, 1)),  # ceil(1.25·4/2) = 3
        (1.0, [3], (2, 1)),  # 2
        (0.5, [1, 3], (1, 1)),  # 1
        (1e-6, [1, 3], (1, 1)),  # 1
    ],
)
def test_capacity_by_hand(capacity_factor, dropped_tokens, loads):
    expected = two_expert_layer(None)(FOUR_TOKENS).numpy()
    expected[dropped_tokens] = 0
    layer = two_expert_layer(capacity_factor)
    with tf.GradientTape() as tape:
        y = layer(FOUR_TOKENS, training=True)
        total = tf.reduce_sum(y**2)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-6)
    for gradient in tape.gradient(total, layer.experts.trainable_variables):
        assert np.all(np.isfinite(gradient.numpy()))
    values = metric_values(layer)
    assert values["moe_dropped"] == pytest.approx(len(dropped_tokens) / 4)
    assert values["moe_max_over_mean_load"] == pytest.approx(max(loads) / np.mean(loads))
    assert values["moe_cv_load"] == pytest.approx(np.std(loads) / np.mean(loads))
    # The importance is that before dropping, 3 and 1: mean 2, standard deviation 1.
    assert values["moe_cv_importance"] == pytest.approx(0.5)


@pytest.mark.parametrize("priority", ["position", "choice", "weight"])
def test_capacity_priority_by_hand(priority):
    """Experts 0 and 1 accept one of two tokens each: `⌈0.5·4/2⌉`."""
    gate = NoisyTopK(k=2, noise=False)
    options = {"capacity_factor": 0.5, "capacity_priority": priority, "metrics": "all"}
    layer = randomize(MoE(2, 7, gate=gate, name="moe", **options), 2)
    unlimited = randomize(MoE(2, 7, gate=gate, name="unlimited"), 2)
    for mixture in (layer, unlimited):
        mixture.gate.kernels["gate_kernel"].assign(np.eye(2))
    x = np.array([[0.0, 1.0], [5.0, 0.0]], "float32")
    # Token 0 prefers expert 1; token 1 prefers expert 0, more strongly. With "position" token 0
    # keeps both experts; otherwise each token keeps its first choice.
    kept = [[1, 1], [0, 0]] if priority == "position" else [[0, 1], [1, 0]]
    weights = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    outputs = np.stack([expert_by_numpy(unlimited, i, x) for i in range(2)], axis=1)
    expected = np.sum((weights * kept)[:, :, None] * outputs, axis=1)
    np.testing.assert_allclose(layer(x, training=True), expected, rtol=1e-5)
    assert metric_values(layer)["moe_dropped"] == 0.5
    # Outside of training nothing is dropped.
    np.testing.assert_array_equal(run(layer, x, False), unlimited(x))
    assert metric_values(layer)["moe_dropped"] == 0


def expert_by_numpy(layer, i, x):
    first, second = (kernel.numpy()[i] for kernel in layer.experts.kernels)
    return np.maximum(x @ first, 0) @ second


@pytest.mark.parametrize("training", [False, True])
def test_capacity_factors_in_training_and_evaluation(training):
    expected = two_expert_layer(None)(FOUR_TOKENS).numpy()
    for factors in ((0.5, None), (None, 0.5), (1.0, 0.5)):
        layer = two_expert_layer(factors[0], evaluation_capacity_factor=factors[1])
        factor = factors[0] if training else factors[1]
        # Tokens 0, 1, 3 go to expert 0, which accepts ⌈factor·4/2⌉.
        dropped = {None: [], 0.5: [1, 3], 1.0: [3]}[factor]
        y = run(layer, FOUR_TOKENS, training).numpy()
        np.testing.assert_array_equal(y[dropped], 0)
        kept = np.setdiff1d(range(4), dropped)
        np.testing.assert_allclose(y[kept], expected[kept], rtol=1e-6)
        assert np.abs(expected).min(axis=1).max() > 0
        assert metric_values(layer)["moe_dropped"] == len(dropped) / 4


def test_capacity_with_batchwise_gating_by_hand():
    """Each of two experts has two of four tokens, and accepts the first `⌈0.5·4/2⌉`."""
    layer, unlimited = (
        randomize(MoE(2, 7, gate=Batchwise(k=1), name="moe", capacity_factor=factor), 2)
        for factor in (0.5, None)
    )
    for mixture in (layer, unlimited):
        mixture.gate.kernels["gate_kernel"].assign(np.eye(2))
    x = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 1.0]], "float32")
    expected = unlimited(
        x, training=True
    ).numpy()  # tokens 0 and 2 to expert 0, 1 and 3 to expert 1
    expected[2:] = 0
    np.testing.assert_allclose(layer(x, training=True), expected, rtol=1e-6)
    assert metric_values(layer)["moe_dropped"] == 0.5


@pytest.mark.parametrize("training", [False, True])
def test_metrics_are_means_over_batches(training):
    layer = two_expert_layer(None)
    # Loads 3 and 1: CV 0.5, maximum 1.5 times the mean.
    run(layer, FOUR_TOKENS, training)
    # Loads 1 and 0: CV 1, maximum 2 times the mean, half of the experts unused.
    run(layer, FOUR_TOKENS[:1], training)
    values = metric_values(layer)
    assert ("moe_balancing_loss" in values) is training
    values.pop("moe_balancing_loss", None)
    assert values == pytest.approx(
        {
            "moe_cv_importance": 0.75,
            "moe_cv_load": 0.75,
            "moe_max_over_mean_load": 1.75,
            "moe_unused_experts": 0.25,
            "moe_dropped": 0.0,
            "moe_selected_per_token": 1.0,
        }
    )


@pytest.mark.parametrize("groups", [None, 3])
@pytest.mark.parametrize("training", [False, True])
def test_tokens_without_an_expert_give_zero(groups, training):
    options = {"use_bias": True, "metrics": "all", "name": "moe"}
    layer = randomize(MoE(6, 7, gate=Batchwise(k=1), groups=groups, **options))
    set_thresholds(layer, 4.0 if groups is None else 1.5)
    x = tf.random.stateless_normal([40, D], [1, 2])
    tokens = layer.gate.route(x, training=training).assignments.by_token()[0].numpy()
    unrouted = np.setdiff1d(np.arange(40), tokens)
    assert 0 < len(unrouted) < 40
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = run(layer, x, training)
        total = tf.reduce_sum(y**2)
    np.testing.assert_array_equal(y.numpy()[unrouted], 0)
    assert np.all(np.abs(y.numpy()[tokens]).max(axis=1) > 0)
    gradient = tf.convert_to_tensor(tape.gradient(total, x)).numpy()
    np.testing.assert_array_equal(gradient[unrouted], 0)
    values = metric_values(layer)
    assert values["moe_dropped"] == 0
    assert values["moe_selected_per_token"] == pytest.approx(len(tokens) / 40)
    if training:
        assert values["moe_cv_load"] == values["moe_unused_experts"] == 0
        assert values["moe_max_over_mean_load"] == 1
    else:
        assert values["moe_unrouted"] == pytest.approx(len(unrouted) / 40)
        assert values["moe_experts_per_token"] == pytest.approx(len(tokens) / 40)
        assert not {"moe_threshold_precision", "moe_threshold_recall"} & set(values)


def test_losses_of_the_last_training_call_only():
    layer = randomize(MoE(4, 7, gate=NoisyTopK(k=2, importance_weight=1.0, load_weight=1.0)))
    x = tf.random.stateless_normal([6, D], [1, 2])
    layer(x, training=True)
    layer(x, training=True)
    assert len(layer.losses) == 1
    assert layer.losses[0].numpy() > 0
    layer(x)
    assert layer.losses == []
