"""Compares the sparse layer with dense formulas, values and gradients, in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.gating import Hierarchical, NoisyTopK, Softmax
from tfmoe.layers import FeedForward, MoE

D, HIDDEN, EXPERTS = 5, 7, 6
X = np.random.default_rng(0).standard_normal((11, D))
OUTPUT_WEIGHTS = np.random.default_rng(1).standard_normal((11, D))


def randomize(layer, input_dim=D):
    """Builds a layer and assigns a random value to every weight, including gates and biases."""
    layer.build((None, input_dim))
    rng = np.random.default_rng(2)
    for weight in layer.trainable_weights:
        weight.assign(rng.standard_normal(weight.shape) / np.sqrt(input_dim))
    return layer


def keep_top_k(logits, k):
    """`softmax(KeepTopK(logits, k))` over the last axis, dense."""
    threshold = tf.sort(logits, axis=-1)[..., -k, None]
    return tf.nn.softmax(tf.where(logits >= threshold, logits, -np.inf))


def expert_outputs(layer, x):
    """`[T, E, D]`: the outputs of every expert for every token, as plain matrix products."""
    h = tf.repeat(x[:, None, :], layer.num_experts, axis=1)
    experts = layer.experts
    for i, kernel in enumerate(experts.kernels):
        h = tf.einsum("tei,eio->teo", h, tf.convert_to_tensor(kernel))
        h = h + experts.biases[i] if experts.use_bias else h
        if i < experts.depth:
            factor = h[..., HIDDEN:] if experts.gated else 1
            h = experts.activation(h[..., :HIDDEN]) * factor
    return h


def mixture(gates, outputs):
    return tf.einsum("te,ted->td", gates, outputs)


def values_and_gradients(function, x, variables):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
        total = tf.reduce_sum(y * OUTPUT_WEIGHTS)
    sources = [x, *variables]
    gradients = tape.gradient(total, sources, unconnected_gradients="zero")
    return [y, *(tf.convert_to_tensor(gradient) for gradient in gradients)]


def assert_equivalent(layer, dense, function=None):
    variables = layer.trainable_variables
    actual = values_and_gradients(function or layer, X, variables)
    expected = values_and_gradients(dense, X, variables)
    names = ["outputs", "inputs", *(variable.path for variable in variables)]
    for name, a, b in zip(names, actual, expected, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=0, atol=1e-10, err_msg=name)
    return names, expected


OPTIONS = {
    "plain": {},
    "deep": {"depth": 3},
    "bias": {"use_bias": True},
    "tanh": {"activation": "tanh"},
    "deep, bias, gelu": {"depth": 2, "use_bias": True, "activation": "gelu"},
    "recompute": {"recompute": True, "depth": 2, "use_bias": True},
    "SwiGLU": {"gated": True, "activation": "silu"},
    "deep GEGLU, bias, recompute": {
        "gated": True, "activation": "gelu", "depth": 2, "use_bias": True, "recompute": True
    },
}  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("k", [2, 6])
def test_flat_noisy_top_k(k, options):
    gate = NoisyTopK(k=k, noise=False)
    layer = randomize(MoE(EXPERTS, HIDDEN, gate=gate, dtype="float64", **options))

    def dense(x):
        gates = keep_top_k(x @ layer.gate.kernels["gate_kernel"], k)
        return mixture(gates, expert_outputs(layer, x))

    names, expected = assert_equivalent(layer, dense)
    for name, value in zip(names, expected, strict=True):  # no value is zero
        assert np.abs(value.numpy()).max() > 1e-3, name


def test_softmax_gate_is_the_dense_mixture():
    layer = randomize(MoE(EXPERTS, HIDDEN, gate=Softmax(), dtype="float64"))

    def dense(x):
        gates = tf.nn.softmax(x @ layer.gate.kernels["gate_kernel"])
        return mixture(gates, expert_outputs(layer, x))

    assert_equivalent(layer, dense)


def test_k_equal_to_num_experts_is_the_soft_mixture():
    sparse = randomize(
        MoE(EXPERTS, HIDDEN, gate=NoisyTopK(k=EXPERTS, noise=False), dtype="float64")
    )
    soft = randomize(MoE(EXPERTS, HIDDEN, gate=Softmax(), dtype="float64"))
    actual = values_and_gradients(sparse, X, sparse.trainable_variables)
    expected = values_and_gradients(soft, X, soft.trainable_variables)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=0, atol=1e-10)


ONE_EXPERT_OPTIONS = [
    {},
    {"depth": 3, "use_bias": True, "activation": "tanh"},
    {"depth": 2, "gated": True, "activation": "silu"},
]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("gate", [NoisyTopK(k=1), Softmax()], ids=["noisy_top_k", "softmax"])
@pytest.mark.parametrize("options", ONE_EXPERT_OPTIONS)
def test_one_expert_is_a_feed_forward_layer(gate, options, training):
    layer = randomize(MoE(1, HIDDEN, gate=gate, dtype="float64", **options))
    dense = FeedForward(HIDDEN, dtype="float64", **options)
    dense.build((None, D))
    expert_weights = layer.experts.trainable_weights
    for weight, source in zip(dense.trainable_weights, expert_weights, strict=True):
        weight.assign(source[0])
    actual = values_and_gradients(lambda x: layer(x, training=training), X, expert_weights)
    expected = values_and_gradients(dense, X, dense.trainable_variables)
    for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
        a = a if i < 2 else a[0]
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=0, atol=1e-10)


def hierarchical_dense(layer, level_gates):
    """`Σ_i Σ_j G_primary(x)_i G_i(x)_j E_ij(x)` with both gates computed for all tokens."""

    def dense(x):
        primary = level_gates[0](x @ layer.gate.primary.kernels["gate_kernel"])
        kernel = tf.convert_to_tensor(layer.gate.secondary.kernels["gate_kernel"])
        secondary = level_gates[1](tf.einsum("td,gde->tge", x, kernel))
        gates = tf.reshape(primary[:, :, None] * secondary, [-1, layer.num_experts])
        return mixture(gates, expert_outputs(layer, x))

    return dense


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("groups", "k"), [(4, 2), (2, 2), (4, 3)])
def test_hierarchical_noisy_top_k(groups, k, recompute):
    gate = NoisyTopK(k=k, noise=False)
    layer = randomize(
        MoE(12, HIDDEN, gate=gate, groups=groups, recompute=recompute, dtype="float64")
    )
    dense = hierarchical_dense(layer, [lambda logits: keep_top_k(logits, k)] * 2)
    names, expected = assert_equivalent(layer, dense)
    for name, value in zip(names, expected, strict=True):
        assert np.abs(value.numpy()).max() > 1e-3, name


def test_dense_hierarchical_is_the_product_of_its_softmaxes():
    layer = randomize(MoE(6, HIDDEN, gate=Softmax(), groups=2, dtype="float64"))
    assert_equivalent(layer, hierarchical_dense(layer, [tf.nn.softmax] * 2))


def test_hierarchical_with_different_gates():
    gate = Hierarchical(3, NoisyTopK(k=2, noise=False), Softmax())
    layer = randomize(MoE(6, HIDDEN, gate=gate, dtype="float64"))
    dense = hierarchical_dense(layer, [lambda logits: keep_top_k(logits, 2), tf.nn.softmax])
    assert_equivalent(layer, dense)


@pytest.mark.parametrize("groups", [None, 2])
def test_noise_is_the_only_difference_between_training_and_evaluation(groups):
    """With very negative W_noise, σ = 0, and training selects the same experts as evaluation."""
    layer = randomize(MoE(4, HIDDEN, gate=NoisyTopK(k=2), groups=groups, dtype="float64"))
    for weight in layer.gate.trainable_weights:
        if weight.name == "noise_kernel":
            weight.assign(np.zeros(weight.shape))
    noisy = layer(X, training=True).numpy()
    assert np.abs(noisy - layer(X).numpy()).max() > 1e-3
    positive = np.abs(X)
    for weight in layer.gate.trainable_weights:
        if weight.name == "noise_kernel":
            weight.assign(np.full(weight.shape, -1e4))
    np.testing.assert_array_equal(layer(positive, training=True).numpy(), layer(positive).numpy())


@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize("recompute", [False, True])
def test_function_with_unknown_batch_and_time(groups, recompute):
    gate = NoisyTopK(k=2, noise=False)
    layer = randomize(
        MoE(4, HIDDEN, gate=gate, groups=groups, recompute=recompute, dtype="float64")
    )

    @tf.function(input_signature=[tf.TensorSpec([None, None, D], tf.float64)])
    def loss_and_gradients(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
            total = tf.reduce_sum(y**2)
        assert y.shape.as_list() == [None, None, D]
        return y, tape.gradient(total, [x, *layer.trainable_variables])

    for shape in [(2, 5, D), (3, 1, D), (1, 7, D), (2, 0, D)]:
        x = np.random.default_rng(3).standard_normal(shape)
        y, gradients = loss_and_gradients(x)
        x_tensor = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(x_tensor)
            eager = layer(x_tensor)
            total = tf.reduce_sum(eager**2)
        expected = tape.gradient(total, [x_tensor, *layer.trainable_variables])
        np.testing.assert_allclose(y.numpy(), eager.numpy(), rtol=0, atol=1e-10)
        for a, b in zip(gradients, expected, strict=True):
            a, b = tf.convert_to_tensor(a).numpy(), tf.convert_to_tensor(b).numpy()
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", [(24, D), (4, 6, D), (2, 3, 4, D)])
def test_leading_axes_are_tokens(shape):
    layer = randomize(MoE(EXPERTS, HIDDEN, gate=NoisyTopK(k=2), dtype="float64"))
    x = np.random.default_rng(3).standard_normal((24, D))
    y = layer(x.reshape(shape))
    assert y.shape == shape
    np.testing.assert_allclose(y.numpy().reshape(24, D), layer(x).numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize("shape", [(0, D), (2, 0, D)])
def test_empty_batch(shape, groups):
    gate = NoisyTopK(k=2, importance_weight=0.1, load_weight=0.1)
    layer = randomize(MoE(4, HIDDEN, gate=gate, groups=groups, capacity_factor=1.0))
    with tf.GradientTape() as tape:
        y = layer(tf.zeros(shape), training=True)
        total = tf.reduce_sum(y) + sum(layer.losses)
    assert y.shape == shape
    assert total.numpy() == 0
    for gradient in tape.gradient(total, layer.trainable_variables):
        assert gradient is None or np.all(np.isfinite(tf.convert_to_tensor(gradient).numpy()))
    values = layer.expert_metrics.result().values()
    assert values and all(np.isfinite(value.numpy()) for value in values)


def test_the_task_trains_the_gate():
    layer = MoE(4, HIDDEN, gate=NoisyTopK(k=2, seed=1))
    keras.utils.set_random_seed(1)
    layer.build((None, D))
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer(tf.constant(X, tf.float32), training=True) ** 2)
    for gradient in tape.gradient(total, list(layer.gate.kernels.values())):
        assert np.abs(gradient.numpy()).max() > 0
