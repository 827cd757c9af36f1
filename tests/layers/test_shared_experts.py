"""`MoE(shared_experts=N)`: experts that compute every token."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from layers.small_mixtures import D, randomize

from tfmoe.analysis.variables import parameters_of
from tfmoe.gating import NoisyTopK, Softmax
from tfmoe.layers import MoE
from tfmoe.layers.shared_experts import SharedExperts

H = 3
X = np.random.default_rng(0).standard_normal((7, D))
GATE = NoisyTopK(k=2, noise=False)


def mixture(gate=GATE, **options):
    return MoE(4, H, gate=gate, dtype="float64", **options)


def test_by_hand():
    layer = MoE(1, 1, gate=Softmax(), shared_experts=2, shared_gate=True)
    layer.build((None, 2))
    routed, shared = layer.experts.kernels, layer.shared.kernels
    routed[0].assign([[[1], [1]]])
    routed[1].assign([[[1, 0]]])
    shared[0].assign([[[1, 2], [0, 1]]])  # a column for each expert
    shared[1].assign([[[1, 0], [10, 3]]])  # a row for each expert
    x = tf.constant([[1.0, 2.0], [2.0, -5.0]])
    # Routed: relu(3) · (1, 0), relu(-3). Shared: relu(1, 4) → (1 + 40, 12); relu(2, -1) → (2, 0).
    # With w = 0 the gate is 1/2.
    np.testing.assert_allclose(layer(x), [[3 + 41 / 2, 6], [1, 0]])
    layer.shared.gate_kernel.assign([[np.log(3)], [0]])
    # sigmoid(log 3) = 3/4, sigmoid(2 log 3) = 9/10.
    np.testing.assert_allclose(layer(x), [[3 + 41 * 0.75, 9], [1.8, 0]], rtol=1e-6)


def dense_shared(layer, x):
    """The sum of the shared experts, each with its columns and rows of the kernels."""
    shared, total = layer.shared, 0
    first, second = (tf.convert_to_tensor(kernel)[0] for kernel in shared.kernels)
    num_columns = first.shape[1] // 2
    for i in range(shared.num_shared):
        part = slice(i * H, (i + 1) * H)
        hidden = x @ first[:, part]
        if shared.gated:
            hidden = hidden * tf.sigmoid(hidden) * (x @ first[:, num_columns:][:, part])
        total += (hidden if shared.gated else tf.nn.relu(hidden)) @ second[part]
    return total * tf.sigmoid(x @ shared.gate_kernel) if shared.has_gate else total


def values_and_gradients(function, variables):
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
        total = tf.reduce_sum(tf.sin(y))
    gradients = tape.gradient(total, [x, *variables])
    return [y, *map(tf.convert_to_tensor, gradients)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gated": True, "activation": "silu", "shared_gate": True},
        {"groups": 2, "recompute": True, "shared_gate": True},
    ],
)
def test_equals_the_dense_formula(options):
    layer = randomize(mixture(shared_experts=2, **options))
    routed = mixture(**{key: value for key, value in options.items() if key != "shared_gate"})
    routed.build((None, D))
    for a, b in zip(routed.weights, layer.weights, strict=False):
        a.assign(b)
    actual = values_and_gradients(lambda x: layer(x, training=True), layer.trainable_variables)
    num_shared = len(layer.shared.trainable_variables)
    expected = values_and_gradients(
        lambda x: routed(x, training=True) + dense_shared(layer, x),
        [*routed.trainable_variables, *layer.trainable_variables[-num_shared:]],
    )
    for a, b in zip(actual, expected, strict=True):
        assert np.abs(b).max() > 1e-3
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)


def test_padding_and_dropped_tokens():
    layer = randomize(mixture(shared_experts=1, evaluation_capacity_factor=1e-9))
    mask = np.arange(7) < 5
    y = layer(X, mask=mask).numpy()
    np.testing.assert_array_equal(y[5:], 0)
    # An expert has one token. Tokens without an expert have the shared one.
    expected = dense_shared(layer, tf.constant(X)).numpy()
    is_dropped = np.isclose(y[:5], expected[:5], rtol=0, atol=1e-12).all(axis=1)
    assert 1 <= is_dropped.sum() < 5


@pytest.mark.parametrize(
    ("options", "ops", "parameters"),
    [
        # 2 of 4 experts and the gate matrix, D = 5 and H = 3; 2 shared experts; their gate.
        ({}, 2 * 30 + 20 + 2 * 30, 4 * 30 + 20 + 2 * 30),
        ({"shared_gate": True, "gated": True}, 90 + 20 + 90 + 5, 4 * 45 + 20 + 90 + 5),
        ({"use_bias": True}, 140, 4 * 38 + 20 + 60 + 6 + 5),
    ],
)
def test_operations_and_parameters(options, ops, parameters):
    layer = mixture(shared_experts=2, **options)
    assert layer.ops_per_timestep(D) == ops
    assert parameters_of(layer, (None, D)) == parameters


def test_save_and_load(tmp_path):
    layer = MoE(4, H, gate=GATE, shared_experts=2, shared_gate=True, gated=True)
    model = keras.Sequential([keras.Input((D,)), layer])
    layer.shared.gate_kernel.assign(X[:1].T)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert loaded.layers[0].get_config() == layer.get_config()
    np.testing.assert_array_equal(loaded(X), model(X))


def test_config_round_trip():
    layer = SharedExperts(3, H, True, use_bias=True, activation="gelu")
    assert SharedExperts.from_config(layer.get_config()).get_config() == layer.get_config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shared_experts": -1}, "shared_experts must be an integer of at least 0, got -1"),
        ({"shared_experts": True}, "shared_experts must be an integer of at least 0, got True"),
        ({"shared_gate": 1}, "shared_gate must be True or False, got 1"),
        ({"shared_gate": True}, "shared_gate must be False without shared experts, got shared_"),
        ({"shared_experts": 1, "shared_gate": "no"}, "shared_gate must be True or False, got 'no'"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        mixture(**arguments)
