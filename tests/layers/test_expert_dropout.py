"""`expert_dropout`: dropout of the hidden activations of experts in training."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from layers.small_mixtures import D, randomize

from tfmoe.gating import NoisyTopK, Softmax
from tfmoe.layers import Experts, MoE, MultiGateMoE, SoftMoE
from tfmoe.ops.expert_dropout import draw_dropout

RNG = np.random.default_rng(0)
TOP_K = NoisyTopK(k=2, noise=False)


def outputs(layer, inputs, **options):
    return [tensor.numpy() for tensor in tf.nest.flatten(layer(inputs, training=True, **options))]


@pytest.mark.parametrize(
    ("recompute", "equal"), [(False, False), (True, False), (False, True), (True, True)]
)
def test_equals_the_dense_formula_with_the_drawn_mask(recompute, equal):
    layer = Experts(3, 4, depth=2, activation="tanh", recompute=recompute, expert_dropout=0.4,
                    dtype="float64")  # fmt: skip
    layer = randomize(layer, 2)
    x = RNG.standard_normal((3, 2, 2) if equal else (7, 2))
    experts = np.repeat(np.arange(3), 2) if equal else [0, 0, 0, 0, 2, 2]
    rows = x.reshape(-1, 2)[: len(experts)]
    state = layer.seed_generator.state.numpy()

    def gradients(function):
        with tf.GradientTape() as tape:
            y = function()
            loss = tf.reduce_sum(tf.sin(y))
        return [y, *tape.gradient(loss, [kernel.value for kernel in layer.kernels])]

    actual = gradients(lambda: layer(x, None if equal else tf.constant([4, 0, 2]), training=True))
    layer.seed_generator.state.assign(state)
    drawn = draw_dropout(0.4, x.shape[:-1], [4, 4], layer.seed_generator)
    factors = [np.reshape(keep, [-1, 4])[: len(rows)] / 0.6 for keep in drawn.keeps]

    def dense():
        first, second, last = (tf.gather(kernel.value, experts) for kernel in layer.kernels)
        h = tf.tanh(tf.einsum("ai,aij->aj", rows, first)) * factors[0]
        h = tf.tanh(tf.einsum("ai,aij->aj", h, second)) * factors[1]
        return tf.einsum("ai,aij->aj", h, last)

    y, *expected = gradients(dense)
    assert 0 < np.sum(factors[0] == 0) < factors[0].size
    flat = actual[0].numpy().reshape(-1, 2)
    np.testing.assert_allclose(flat[: len(rows)], y, rtol=0, atol=1e-12)
    assert not np.any(flat[len(rows) :])
    for a, b in zip(actual[1:], expected, strict=True):
        np.testing.assert_allclose(a, tf.convert_to_tensor(b), rtol=0, atol=1e-12)


LAYERS = {
    "top_k": lambda **options: MoE(4, 6, gate=TOP_K, **options),
    "all_experts": lambda **options: MoE(4, 6, gate=Softmax(), gated=True, **options),
    "groups": lambda **options: MoE(4, 6, gate=TOP_K, groups=2, use_bias=True, **options),
    "shared": lambda **options: MoE(4, 6, gate=TOP_K, shared_experts=2, **options),
    "tasks": lambda **options: MultiGateMoE(2, 4, 6, **options),
    "slots": lambda **options: SoftMoE(4, 6, **options),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_mean_is_the_output_without_dropout(name):
    """The output is linear in the hidden activations after dropout."""
    keras.utils.set_random_seed(1)
    layer, plain = LAYERS[name](expert_dropout=0.3), LAYERS[name]()
    inputs = np.repeat(RNG.standard_normal((1, 2, D)), 4000, axis=0).astype("float32")
    for each in (layer, plain):
        each.build(inputs.shape)
    rng = np.random.default_rng(2)
    for weight, other in zip(layer.trainable_weights, plain.trainable_weights, strict=True):
        weight.assign(rng.standard_normal(weight.shape))
        other.assign(weight)
    for drawn, expected in zip(outputs(layer, inputs), outputs(plain, inputs), strict=True):
        deviation = drawn.std(axis=0)
        assert deviation.max() > 0.1  # something is dropped
        error = np.abs(drawn.mean(axis=0) - expected[0])
        assert np.all(error < 5 * deviation / np.sqrt(len(drawn)) + 1e-4)
    for drawn, expected in zip(layer(inputs[:3]), plain(inputs[:3]), strict=True):
        np.testing.assert_array_equal(drawn, expected)  # evaluation


def test_draws_differ_between_steps_and_layers_and_are_reproducible():
    def draws():
        keras.utils.set_random_seed(5)
        first, second = (randomize(LAYERS["shared"](expert_dropout=0.5)) for _ in range(2))
        x = np.ones([3, D], "float32")
        step = tf.function(lambda x: first(x, training=True))
        return [*outputs(first, x), *outputs(first, x), *outputs(second, x), step(x), step(x)]

    results = draws()
    for i, a in enumerate(results):
        for b in results[:i]:
            assert np.any(a != b)
    for a, b in zip(results, draws(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_hidden_units_of_shared_experts_are_dropped():
    layer = MoE(1, 4, gate=Softmax(), shared_experts=2, expert_dropout=0.5)
    layer.build((None, 1))
    for kernel in (*layer.experts.kernels, *layer.shared.kernels):
        kernel.assign(np.ones(kernel.shape))
    (drawn,) = outputs(layer, np.ones([200, 1]))
    # 4 + 8 hidden units of 1, each dropped or doubled.
    values = set(drawn.ravel())
    assert max(values) > 2 * 8 and values <= set(range(0, 26, 2))


def test_without_dropout_there_is_no_generator():
    layer = randomize(LAYERS["shared"]())
    assert layer.experts.seed_generator is None and layer.shared.seed_generator is None
    x = RNG.standard_normal((6, D)).astype("float32")
    np.testing.assert_array_equal(*outputs(layer, x), layer(x))
    names = [variable.path for variable in layer.non_trainable_variables]
    assert not any("seed" in name for name in names)


def test_a_checkpoint_has_the_state_of_the_generators(tmp_path):
    first, second = (randomize(LAYERS["shared"](expert_dropout=0.5)) for _ in range(2))
    path = tf.train.Checkpoint(first).write(str(tmp_path / "checkpoint"))
    tf.train.Checkpoint(second).read(path).assert_consumed()
    x = RNG.standard_normal((6, D)).astype("float32")
    np.testing.assert_array_equal(outputs(first, x), outputs(second, x))


@pytest.mark.parametrize("name", ["shared", "tasks", "slots"])
def test_save_and_load(tmp_path, name):
    layer = LAYERS[name](expert_dropout=0.25)
    assert layer.get_config()["expert_dropout"] == 0.25
    assert type(layer).from_config(layer.get_config()).get_config() == layer.get_config()
    inputs = keras.Input((2, D))
    model = keras.Model(inputs, layer(inputs))
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert loaded.layers[1].experts.expert_dropout == 0.25
    x = RNG.standard_normal((3, 2, D)).astype("float32")
    for a, b in zip(tf.nest.flatten(model(x)), tf.nest.flatten(loaded(x)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_kept_for_backward():
    """One byte for each hidden unit of each expert of a token, also with recomputation."""
    options = {"gated": True, "depth": 2, "shared_experts": 2}
    without = MoE(4, 6, gate=TOP_K, **options).kept_for_backward(D)
    kept = MoE(4, 6, gate=TOP_K, expert_dropout=0.1, **options).kept_for_backward(D)
    assert kept.always == without.always + (2 + 2) * 2 * 6
    assert kept.recomputable == without.recomputable
    slots = SoftMoE(4, 6, expert_dropout=0.1).kept_for_backward(D, steps=2)
    assert slots.always == SoftMoE(4, 6).kept_for_backward(D, steps=2).always + 2 * 6


@pytest.mark.parametrize("rate", [1, -0.1, "0.1", None, True])
def test_wrong_rates(rate):
    with pytest.raises(ValueError, match=r"expert_dropout must be a number of at least 0 and bel"):
        MoE(4, 6, expert_dropout=rate)


def test_experts_that_are_layers_have_no_dropout():
    with pytest.raises(ValueError, match=r"expert_dropout must be 0.0 with experts=LAYER, .*0.1"):
        MoE(4, experts=keras.layers.Dense(D), expert_dropout=0.1)


def test_recomputation_outside_of_the_layer():
    layer = randomize(Experts(2, 3, expert_dropout=0.1))
    x, counts = tf.ones([4, D]), tf.constant([2, 2])
    with pytest.raises(ValueError, match=r"expert_dropout=0.1, but runs inside tf.recompute_grad"):
        tf.recompute_grad(lambda x: layer(x, counts, training=True))(x)
    assert tf.recompute_grad(lambda x: layer(x, counts))(x).shape == (4, D)
