"""Regularizers and constraints of experts: those of a dense layer, for each expert."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import constraints, regularizers
from layers.small_mixtures import D, randomize

from tfmoe.gating import NoisyTopK
from tfmoe.layers import MoE, MoELSTM, MultiGateMoE, SoftMoE
from tfmoe.optimizers import FactoredAdam, FusedAdam

GATE = NoisyTopK(k=2, noise=False)
X = np.random.default_rng(0).standard_normal((12, D)).astype("float32")


def largest(weight):
    return 0.1 * tf.reduce_max(tf.abs(weight))


def matrices(variable, gated=False):
    """The weights of all experts, one by one; those of a gated layer apart."""
    for weight in tf.unstack(tf.convert_to_tensor(variable)):
        yield from tf.split(weight, 2, axis=-1) if gated else [weight]


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(
    "regularizer",
    ["l2", regularizers.OrthogonalRegularizer(0.3, "columns"), largest],
    ids=["sum", "matrix", "function"],
)
def test_regularizer_is_that_of_each_expert(regularizer, gated):
    layer = MoE(3, 4, gate=GATE, gated=gated, use_bias=True, shared_experts=2,
                kernel_regularizer=regularizer, bias_regularizer=largest)  # fmt: skip
    randomize(layer)
    one = regularizers.get(regularizer)
    expected = 0.0
    for stack in (layer.experts, layer.shared):
        for i in range(2):
            for kernel in matrices(stack.kernels[i], gated and i == 0):
                expected += float(one(kernel))
            for bias in matrices(stack.biases[i], gated and i == 0):
                expected += float(largest(bias))
    assert len(layer.losses) == 8
    np.testing.assert_allclose(sum(map(float, layer.losses)), expected, rtol=1e-5)


def centered(weight):
    return weight - tf.reduce_mean(weight)


@pytest.mark.parametrize(
    ("norm", "gated"),
    [
        (constraints.MaxNorm(0.5, axis=0), True),
        (constraints.MinMaxNorm(0.5, 0.7, axis=[0, 1]), False),
        (constraints.UnitNorm(axis=-1), True),
        (centered, True),
    ],
    ids=["columns", "matrix", "rows", "function"],
)
def test_constraint_is_that_of_each_expert(norm, gated):
    unit = constraints.UnitNorm()
    layer = MoE(3, 4, gate=GATE, gated=gated, use_bias=True, kernel_constraint=norm,
                bias_constraint=unit)  # fmt: skip
    randomize(layer)
    for variables, one in ((layer.experts.kernels, norm), (layer.experts.biases, unit)):
        for i, variable in enumerate(variables):
            is_gated = gated and i == 0
            constrained = variable.constraint(variable)
            assert constrained.shape == variable.shape
            pairs = zip(matrices(constrained, is_gated), matrices(variable, is_gated), strict=True)
            for actual, weight in pairs:
                np.testing.assert_allclose(actual, one(weight), rtol=1e-5)


def compiled(layer, optimizer):
    model = keras.Sequential([keras.Input([D]), layer, keras.layers.Dense(1)])
    model.compile(optimizer, "mse")
    return model


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.Adam(0.5),
        lambda: FusedAdam(0.5),
        lambda: FactoredAdam(0.5),
        lambda: keras.optimizers.SGD(9.0, gradient_accumulation_steps=2),
    ],
    ids=["Adam", "FusedAdam", "FactoredAdam", "accumulation"],
)
def test_optimizers_apply_constraints(make):
    layer = MoE(3, 4, gate=GATE, kernel_constraint=constraints.MaxNorm(0.5, axis=0))
    model = compiled(layer, make())
    for rows in (X[:6], X[6:]):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(rows) - 9 * rows[:, :1]) ** 2)
        variables = model.trainable_variables
        model.optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
    for kernel in layer.experts.kernels:
        norms = np.linalg.norm(kernel.numpy(), axis=1)
        assert norms.max() < 0.5 + 1e-5 and np.sum(norms > 0.499) > 2


PENALTIES = {"kernel_regularizer": "l1", "kernel_constraint": "non_neg"}
LAYERS = {
    "MoE": lambda **options: MoE(3, 4, gate=GATE, **options),
    "MoELSTM": lambda **options: MoELSTM(3, 4, gate=GATE, **options),
    "MultiGateMoE": lambda **options: MultiGateMoE(2, 3, 4, gate=GATE, **options),
    "SoftMoE": lambda **options: SoftMoE(3, 4, **options),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_mixture_has_them(name):
    layer = LAYERS[name](**PENALTIES)
    layer(X.reshape(3, 4, D))
    copy = type(layer).from_config(layer.get_config())
    copy(X.reshape(3, 4, D))
    for each in (layer, copy):
        kernels = [w for w in each.experts.trainable_weights if "kernel" in w.path]
        expected = sum(0.01 * np.abs(kernel.numpy()).sum() for kernel in kernels)
        np.testing.assert_allclose(float(sum(each.losses)), expected, rtol=1e-5)
        assert all(np.all(kernel.constraint(kernel) >= 0) for kernel in kernels)


def test_files_and_configs(tmp_path):
    """Also a config from before the layer had the arguments."""
    options = {**PENALTIES, "bias_regularizer": largest, "bias_constraint": "unit_norm"}
    layer = MoE(3, 4, gate=GATE, use_bias=True, bias_initializer="ones", **options)
    model = compiled(layer, "adam")
    model.save(tmp_path / "model.keras")
    with keras.saving.CustomObjectScope({"largest": largest}):
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        clone = keras.models.clone_model(model)
    for other in (loaded, clone):
        assert len(other.losses) == 4
    np.testing.assert_allclose(sum(map(float, loaded.losses)), sum(map(float, model.losses)))
    np.testing.assert_array_equal(clone.layers[0].experts.biases[0], np.ones([3, 4]))
    config = layer.get_config()
    for name in (*options, "bias_initializer", "output_units"):
        del config[name]
    old = MoE.from_config(config)
    randomize(old)
    assert old.losses == [] and old.experts.bias_initializer.get_config() == {}


def test_of_experts_that_are_layers():
    columns = regularizers.OrthogonalRegularizer(0.3, "columns")
    norm = constraints.MaxNorm(0.5, axis=0)
    dense = keras.layers.Dense(4, kernel_regularizer=columns, kernel_constraint=norm)
    layer = MoE(3, gate=GATE, experts=dense)
    model = compiled(layer, FusedAdam(0.5))
    kernel = layer.experts.stacks[0]
    expected = sum(float(columns(each)) for each in matrices(kernel))
    np.testing.assert_allclose([float(loss) for loss in model.losses], [expected], rtol=1e-6)
    model.fit(X, 9 * X[:, :1], verbose=0)
    assert np.linalg.norm(kernel.numpy(), axis=1).max() < 0.5 + 1e-5


def test_activity_regularizer_is_that_of_keras():
    layer = MoE(3, 4, gate=GATE, activity_regularizer="l2")
    y = layer(X)
    # Keras divides by the number of rows.
    expected = 0.01 * np.sum(y.numpy() ** 2) / len(X)
    np.testing.assert_allclose(layer.losses, [expected], rtol=1e-5)
    copy = MoE.from_config(layer.get_config())
    copy(X)
    assert len(copy.losses) == 1


def test_biases_are_drawn_for_each_expert():
    keras.utils.set_random_seed(4)
    options = {"use_bias": True, "gated": True, "bias_initializer": "random_normal"}
    layer = MoE(3, 4, gate=GATE, **options)
    layer.build((None, D))
    biases = [bias.numpy() for bias in layer.experts.biases]
    assert [bias.shape for bias in biases] == [(3, 8), (3, D)]
    assert len(np.unique(np.concatenate([bias.ravel() for bias in biases]))) == 3 * (8 + D)
