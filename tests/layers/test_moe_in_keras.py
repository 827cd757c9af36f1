"""`MoE` with Keras features: loops, dtype policies, compilers, debugging, saving."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.gating import Batchwise, Hierarchical, NoisyTopK, Switch
from tfmoe.layers import MoE

X = np.random.default_rng(0).standard_normal((16, 3, 5)).astype("float32")
Y = X[..., :2]
BALANCED = {"importance_weight": 0.1, "load_weight": 0.1}
UNBALANCED = {"importance_weight": 0, "load_weight": 0}


def make_model(*, inputs=(3, 5), **options):
    options = {"gate": NoisyTopK(k=2, **BALANCED), **options}
    mixture = MoE(4, 6, name="moe", **options)
    model = keras.Sequential([keras.Input(inputs), mixture, keras.layers.Dense(2)])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)  # else `fit` traces a step twice
    return model


class Cell(keras.layers.Layer):
    """A recurrent cell that is a mixture of the sum of input and state."""

    state_size = output_size = 5

    def __init__(self, gate):
        super().__init__()
        self.mixture = MoE(4, 6, gate=gate, name="moe")

    def build(self, input_shape):
        self.mixture.build((None, 5))

    def call(self, inputs, states, training=False):
        output = self.mixture(inputs + states[0], training=training)
        return output, [output]


def fit_recurrent(gate, unroll):
    model = keras.Sequential(
        [keras.Input([3, 5]), keras.layers.RNN(Cell(gate), unroll=unroll), keras.layers.Dense(2)]
    )
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    return model.fit(X, Y[:, 0], verbose=0).history


@pytest.mark.parametrize("gate", [NoisyTopK(k=2, noise=False), Batchwise(k=2)])
def test_several_steps_in_a_loop(gate):
    """`steps_per_execution` runs whole steps, with their losses, in a loop of TensorFlow."""
    weights = []
    for steps in (1, 2):
        keras.utils.set_random_seed(0)
        model = make_model(gate=gate)
        model.compile(keras.optimizers.SGD(0.1), "mse", steps_per_execution=steps)
        before = [weight.numpy() for weight in model.trainable_weights]
        history = model.fit(X, Y, batch_size=4, epochs=2, verbose=0, shuffle=False).history
        assert history["loss"][1] < history["loss"][0]
        weights.append([weight.numpy() for weight in model.trainable_weights])
        assert all((old != new).any() for old, new in zip(before, weights[-1], strict=True))
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_loop_over_time_in_a_loop_over_steps():
    model = keras.Sequential([keras.Input([3, 5]), keras.layers.RNN(Cell(NoisyTopK(2, 0.1)))])
    model.compile("adam", "mse", steps_per_execution=2)
    with pytest.raises(ValueError, match="runs inside a loop over time steps"):
        model.fit(X, X[:, 0], batch_size=4, verbose=0)


@pytest.mark.parametrize("unroll", [False, True])
def test_in_a_recurrent_layer_without_losses(unroll):
    history = fit_recurrent(NoisyTopK(k=2, **UNBALANCED), unroll)
    assert np.isfinite(history["loss"][0])
    assert 1 <= history["moe_max_over_mean_load"][0] <= 4


def test_in_a_recurrent_layer_with_losses():
    assert np.isfinite(fit_recurrent(NoisyTopK(k=2, **BALANCED), True)["loss"][0])
    message = (
        r"keras.layers.RNN with unroll=True, or set the weights .*NoisyTopK has them by default"
    )
    with pytest.raises(ValueError, match=message):
        fit_recurrent(NoisyTopK(k=2), False)


@pytest.mark.parametrize("policy", ["float64", "bfloat16", "mixed_bfloat16"])
@pytest.mark.parametrize("gate", [NoisyTopK(k=2), NoisyTopK(k=2, **UNBALANCED), Batchwise(k=2)])
def test_under_a_global_policy(policy, gate):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        history = make_model(gate=gate).fit(X, Y, verbose=0).history
    finally:
        keras.config.set_dtype_policy(before)
    assert np.isfinite(history["loss"][0])


def test_counts_in_bfloat16_are_exact():
    """bfloat16 counts 257 as 256. 600 tokens go to expert 0, 200 to expert 1."""
    layer = MoE(2, 3, gate=Switch(), metrics="all", dtype="bfloat16", name="moe")
    layer.build((None, 2))
    layer.gate.gate_kernel.assign([[9, 0], [0, 9]])
    layer(np.repeat([[1.0, 0], [0, 1]], [600, 200], axis=0), training=True)
    metrics = layer.expert_metrics.result()
    assert float(metrics["moe_max_over_mean_load"]) == 1.5
    assert float(metrics["moe_cv_load"]) == 0.5


@pytest.mark.parametrize(
    ("num_experts", "gate"),
    [
        (4, NoisyTopK(k=2, **BALANCED)),
        pytest.param(4, Batchwise(k=2), marks=pytest.mark.slow),
        (4, Hierarchical(2, Batchwise(k=1), Switch())),
        (80, NoisyTopK(k=2)),
    ],
)
def test_with_check_numerics(num_experts, gate):
    tf.debugging.enable_check_numerics()
    try:
        mixture = MoE(num_experts, 6, gate=gate)
        model = keras.Sequential([keras.Input([3, 5]), mixture, keras.layers.Dense(2)])
        model.compile("adam", "mse")
        model.optimizer.build(model.trainable_variables)
        history = model.fit(X, Y, validation_data=(X, Y), verbose=0).history
    finally:
        tf.debugging.disable_check_numerics()
    assert np.isfinite(history["val_loss"][0])


def test_errors_of_unsupported_features():
    with keras.RematScope(mode="full"):
        layer = MoE(4, 6, name="moe")
    with pytest.raises(ValueError, match=r"RematScope: create it outside.*recompute=True"):
        layer(X)
    layer = MoE(4, 6, name="moe")
    layer.build((None, 5))
    with pytest.raises(NotImplementedError, match=r"moe cannot be quantized, got mode='int8'"):
        layer.quantize("int8")
    with pytest.raises(NotImplementedError, match=r"moe does not support LoRA: .*trainable=False"):
        layer.enable_lora(4)
    with pytest.raises(ValueError, match=r"no argument 'k', got k=2: .*gate=NoisyTopK\(k"):
        MoE(4, 6, k=2)
    with pytest.raises(ValueError, match=r"no argument 'units', .* is output_units=2"):
        MoE(4, 6, units=2)


@pytest.mark.parametrize("num_experts", [4, 80])
def test_second_order_and_forward_mode_derivatives(num_experts):
    """Compares with finite differences of the gradient, and forward mode with reverse mode."""
    gate = NoisyTopK(k=2, noise=False)
    layer = MoE(num_experts, 6, gate=gate, activation="tanh", dtype="float64")
    layer.build((None, 5))
    x, v = (tf.constant(part, tf.float64) for part in np.split(X[:2].reshape(-1, 5), 2))

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(tf.sin(layer(x)))
        return tape.gradient(y, x)

    with tf.GradientTape() as tape:
        tape.watch(x)
        slope = tf.reduce_sum(gradient(x) * v)
    actual = tape.gradient(slope, x)
    step = 1e-6
    expected = (gradient(x + step * v) - gradient(x - step * v)) / (2 * step)
    np.testing.assert_allclose(actual, expected, 1e-5, 1e-8)

    with tf.autodiff.ForwardAccumulator(x, v) as accumulator:
        y = tf.reduce_sum(tf.sin(layer(x)))
    np.testing.assert_allclose(accumulator.jvp(y), tf.reduce_sum(gradient(x) * v), 1e-10)


def test_route_builds_the_layer_and_accepts_numpy():
    layer = MoE(4, 6, gate=NoisyTopK(k=2, noise=False))
    mask = np.arange(48).reshape(16, 3) % 5 > 0
    routing = layer.route(X, mask=mask)
    assert layer.built and len(layer.trainable_weights) == 3
    assert int(routing.assignments.num_tokens) == mask.sum()
    unmasked = layer.route(X[mask]).assignments.by_token()
    for a, b in zip(routing.assignments.by_token(), unmasked, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("mask", [np.ones([16, 4], bool), np.ones([16, 3, 5], bool)])
def test_masks_of_another_shape(mask):
    layer = MoE(4, 6)
    for call in (layer, layer.route):
        with pytest.raises(ValueError, match=r"mask must have the shape of the inputs without"):
            call(X, mask=mask)


def test_capacity_factor_applies_in_training_only():
    """Outside of training, the output for a token does not depend on its batch."""
    model = make_model(capacity_factor=0.5)
    model.fit(X, Y, verbose=0)
    alone = model.predict(X, batch_size=1, verbose=0)
    np.testing.assert_allclose(model.predict(X, verbose=0), alone, 1e-5, 1e-6)
    limited = make_model(evaluation_capacity_factor=0.5)
    limited.set_weights(model.get_weights())
    assert np.abs(limited.predict(X, verbose=0) - alone).max() > 1e-3
    assert limited.evaluate(X, Y, verbose=0, return_dict=True)["moe_dropped"] > 0


@pytest.mark.parametrize("method", ["export", "save"])
def test_saved_model_of_a_trained_model(method, tmp_path):
    model = make_model()
    model.fit(X, Y, verbose=0)
    if method == "export":
        model.export(tmp_path, verbose=False)
    else:
        tf.saved_model.save(model, tmp_path)
    loaded = tf.saved_model.load(tmp_path)
    function = loaded.serve if method == "export" else loaded.signatures["serving_default"]
    outputs = function(tf.constant(X))
    outputs = next(iter(outputs.values())) if isinstance(outputs, dict) else outputs
    np.testing.assert_allclose(outputs, model.predict(X, verbose=0), 1e-5, 1e-6)


def test_layers_with_one_gate_draw_different_noise():
    gate = NoisyTopK(k=2, seed=1)
    layers = [MoE(8, 6, gate=gate) for _ in range(2)]
    layers.append(MoE(8, 6, gate=NoisyTopK(k=2, seed=1)))
    for layer in layers:
        layer.build((None, 5))
    first, second, equal = (layer.gate.draw(tf.constant(X[0])) for layer in layers)
    assert np.abs(first - second).max() > 0.1
    np.testing.assert_array_equal(first, equal)
