"""`output_units`: experts whose outputs have another width than their inputs."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from layers.small_mixtures import D, randomize

from tfmoe.gating import NoisyTopK, Softmax
from tfmoe.layers import Experts, MoE, MultiGateMoE, Residual, SoftMoE

N, H = 3, 4
X = np.random.default_rng(0).standard_normal((2, 6, D))
TOP_K = NoisyTopK(k=2, noise=False)
LAYERS = {
    "top_k": lambda **options: MoE(4, H, gate=TOP_K, **options),
    "groups": lambda **options: MoE(4, H, gate=TOP_K, groups=2, depth=2, **options),
    "shared": lambda **options: MoE(
        4, H, gate=Softmax(), shared_experts=2, shared_gate=True, use_bias=True, **options
    ),
    "tasks": lambda **options: MultiGateMoE(2, 4, H, gate=TOP_K, gated=True, **options),
    "slots": lambda **options: SoftMoE(4, H, **options),
}


@pytest.mark.parametrize("name", LAYERS)
def test_equals_the_columns_of_wider_experts(name):
    """Experts of width N are those of width D without the last columns of their last layer."""
    layer, wide = (LAYERS[name](output_units=n, dtype="float64") for n in (N, None))
    layer(X)
    wide(X)
    rng = np.random.default_rng(1)
    for weight, other in zip(layer.trainable_weights, wide.trainable_weights, strict=True):
        value = rng.standard_normal(other.shape)
        other.assign(value)
        weight.assign(value[..., :N] if weight.shape != other.shape else value)
    mask = tf.sequence_mask([6, 4], 6)
    pairs = zip(
        tf.nest.flatten(layer(X, mask=mask)), tf.nest.flatten(wide(X, mask=mask)), strict=True
    )
    for y, expected in pairs:
        assert y.shape == (2, 6, N)
        np.testing.assert_allclose(y, expected[..., :N], rtol=0, atol=1e-12)
    assert layer.get_config()["output_units"] == N
    symbolic = tf.nest.flatten(layer(keras.Input([None, D])))
    assert [y.shape for y in symbolic] == [(None, None, N)] * len(symbolic)


def test_experts_alone():
    layer = randomize(Experts(2, H, output_units=N))
    assert layer(X.reshape(2, 6, D)).shape == (2, 6, N)
    assert layer.compute_output_shape((7, D)) == (7, N)
    assert layer.ops_per_row(D) == D * H + H * N


def test_costs():
    layer = MoE(4, H, gate=TOP_K, shared_experts=1, output_units=N)
    experts = 3 * (D * H + H * N)  # two of the gate, and the shared one
    assert layer.ops_per_timestep(D) - layer.gate_ops_per_timestep(D) == experts
    # For two experts, rows and results, there and back, of which half stay on the device.
    assert layer.row_widths(D) == (D, N)
    assert layer.bytes_sent(D, 10, 2) == 4 * 2 * 2 * 10 * (D + N) // 2
    wide = MoE(4, H, gate=TOP_K, shared_experts=1)
    kept = [each.kept_for_backward(D).always for each in (layer, wide)]
    assert kept[1] - kept[0] == 4 * 2 * (D - N)


@pytest.mark.slow
def test_trains_and_compiles():
    layer = MoE(4, H, gate=TOP_K, output_units=N, capacity_factor=2.0)
    model = keras.Sequential([keras.Input([6, D]), layer])
    model.compile("adam", "mse", jit_compile=True)
    history = model.fit(X, np.ones((2, 6, N)), epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]
    np.testing.assert_allclose(model.predict(X, verbose=0), model(X), rtol=1e-4, atol=1e-5)


def test_errors():
    block = Residual(MoE(4, H, gate=TOP_K, output_units=N, name="moe"))
    with pytest.raises(ValueError, match=r"moe converts .*a mixture must not have output_units"):
        block.build((None, 6, D))
    with pytest.raises(ValueError, match="output_units must be None with experts=LAYER"):
        MoE(4, gate=TOP_K, experts=keras.layers.Dense(2), output_units=N)
