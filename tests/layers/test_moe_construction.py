"""Sizes, initial values and arguments of `MoE`."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from layers.small_mixtures import D

from tfmoe.analysis.variables import parameters_of
from tfmoe.gating import Batchwise, ExpertThreshold, Hierarchical, NoisyTopK, Softmax
from tfmoe.layers import MoE

# Sizes.


def test_operations_and_parameters_of_the_papers_layers():
    # MoE-256: 4 of 256 experts of 2·512·1024, and two gate matrices of 512·256.
    flat = MoE(256, 1024, gate=NoisyTopK(k=4))
    assert flat.ops_per_timestep(512) == 4 * 1_048_576 + 262_144
    assert parameters_of(flat, (None, 512)) == 256 * 1_048_576 + 262_144
    # MoE-4096-h: 16 groups of 256, k = 2 and 2: 2·512·16 + 2·2·512·256; weights 2·512·16·256.
    deep = MoE(4096, 1024, groups=16, gate=NoisyTopK(k=2))
    assert deep.ops_per_timestep(512) == 4 * 1_048_576 + 16_384 + 524_288
    assert parameters_of(deep, (None, 512)) == 4096 * 1_048_576 + 16_384 + 4_194_304
    # Softmax has one matrix and computes every expert; depth adds h², biases add parameters.
    dense = MoE(3, 8, gate=Softmax(), depth=2, use_bias=True)
    assert dense.ops_per_timestep(5) == 3 * (5 * 8 + 8 * 8 + 8 * 5) + 15
    assert parameters_of(dense, (None, 5)) == 3 * (5 * 8 + 8 * 8 + 8 * 5 + 8 + 8 + 5) + 15


@pytest.mark.parametrize(
    ("gate", "groups"),
    [
        *itertools.product(
            [NoisyTopK(k=2), NoisyTopK(k=2, noise=False), Softmax(), Batchwise(k=2)], [None, 2]
        ),
        ("switch", None),
    ],
)
@pytest.mark.parametrize("options", [{}, {"depth": 3, "use_bias": True}])
def test_parameters_equal_those_of_the_built_layer(gate, groups, options):
    layer = MoE(4, 7, gate=gate, groups=groups, **options)
    expected = parameters_of(layer, (None, None, D))
    assert layer.weights == []  # counting does not build the layer
    layer.build((None, None, D))
    assert expected == sum(weight.shape.num_elements() for weight in layer.trainable_weights)


# Initial values.


@pytest.mark.parametrize("initializer", ["glorot_uniform", "he_normal", "lecun_uniform"])
def test_every_expert_is_initialized_like_a_dense_layer(initializer):
    keras.utils.set_random_seed(1)
    layer = MoE(8, 128, gate=NoisyTopK(k=2), kernel_initializer=initializer)
    layer.build((None, 64))
    for kernel in layer.experts.kernels:
        dense = keras.layers.Dense(kernel.shape[2], kernel_initializer=initializer)
        dense.build((None, kernel.shape[1]))
        expected = dense.kernel.numpy()
        for expert in kernel.numpy():
            assert expert.std() == pytest.approx(expected.std(), rel=0.03)
            assert np.abs(expert).max() == pytest.approx(np.abs(expected).max(), rel=0.1)


def test_experts_differ_and_gates_start_at_zero():
    layer = MoE(4, 8, gate=NoisyTopK(k=2))
    layer.build((None, D))
    for kernel in layer.experts.kernels:
        flat = kernel.numpy().reshape(4, -1)
        assert np.abs(np.corrcoef(flat) - np.eye(4)).max() < 0.6
    for kernel in layer.gate.kernels.values():
        np.testing.assert_array_equal(kernel.numpy(), 0)


def test_layers_with_one_gate_share_no_weights():
    gate = NoisyTopK(k=2)
    first, second = MoE(4, 8, gate=gate), MoE(6, 8, gate=gate)
    for layer in (first, second):
        layer.build((None, D))
        assert layer.gate is not gate
    assert gate.num_experts is None
    assert not gate.built
    ids = [{id(weight) for weight in layer.weights} for layer in (first, second)]
    assert not ids[0] & ids[1]


def test_automatic_names():
    first, second = MoE(2, 4, gate="softmax"), MoE(2, 4, gate="softmax")
    assert first.name.startswith("moe")
    assert second.name.startswith("moe_")
    assert first.name != second.name


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, True),
        ({"gate": ExpertThreshold(k=2)}, False),
        ({"hidden_units": None, "experts": keras.layers.Dense(D)}, False),
        ({"hidden_units": None, "experts": keras.layers.Dense(D), "capacity_factor": 1.0}, True),
    ],
)
def test_automatic_xla_compilation(options, expected):
    """On a GPU Keras compiles a model with XLA unless one of its layers does not support it."""
    model = keras.Sequential([keras.Input((D,)), MoE(4, **{"hidden_units": 8, **options})])
    model.compile("sgd", "mse", jit_compile="auto")
    assert model.jit_compile in (False, "auto", expected)
    assert all(layer.supports_jit for layer in model._flatten_layers()) is expected


# Wrong arguments.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_experts": 0}, r"num_experts must be an integer of at least 1, got 0"),
        ({"num_experts": 4.0}, r"num_experts must be an integer of at least 1, got 4.0"),
        ({"num_experts": None}, r"num_experts must be an integer of at least 1, got None"),
        ({"hidden_units": -3}, r"hidden_units must be an integer of at least 1, got -3"),
        ({"hidden_units": "7"}, r"hidden_units must be an integer of at least 1, got '7'"),
        ({"depth": 0}, r"depth must be an integer of at least 1, got 0"),
        ({"gate": NoisyTopK(k=9)}, r"k must be at most 8, the number of experts.*got k=9"),
        ({"gate": {"name": "noisy_top_k", "k": 9}}, r"k must be at most 8.*got k=9"),
        ({"num_experts": 2}, r"k must be at most 2.*got k=4"),  # the default gate's k
        ({"gate": "noisy"}, r"gate must be .* got 'noisy'"),
        ({"gate": "sofmax"}, r"got 'sofmax'; did you mean 'softmax'"),
        ({"gate": 3}, r"gate must be .* got 3"),
        ({"groups": 3}, r"groups must divide num_experts=8, got groups=3; .*1, 2, 4, 8"),
        (
            {"num_experts": 2**62, "groups": 3},
            rf"num_experts={2**62}, got groups=3; possible values: 1, 2, 4, .*, 2048$",
        ),
        ({"groups": 0}, r"groups must be an integer of at least 1, got 0"),
        ({"groups": 2}, r"k must be at most 2, .*groups.*got k=4"),
        ({"groups": 4}, r"k must be at most 2, .*got k=4"),
        ({"groups": 2, "gate": Hierarchical(2, Softmax())}, r"groups must be None with gate=Hier"),
        ({"capacity_factor": 0}, r"capacity_factor must be .* above 0, got 0"),
        ({"capacity_factor": -1.0}, r"capacity_factor must be .* above 0, got -1.0"),
        ({"capacity_factor": "1"}, r"capacity_factor must be .* above 0, got '1'"),
        ({"capacity_factor": float("inf")}, r"capacity_factor must be a finite .*got inf"),
        ({"gate": Batchwise(k=9)}, r"k must be at most 8, .*got k=9"),
        ({"gate": Batchwise(k=3), "groups": 2}, r"k must be at most 2, .*groups.*got k=3"),
        ({"evaluation_capacity_factor": 0}, r"evaluation_capacity_factor must be .* 0, got 0"),
        (
            {"capacity_priority": "size"},
            r"capacity_priority must be one of 'position', 'choice', 'weight', got 'size'",
        ),
        ({"metrics": 1}, r"metrics must be 'summary', 'all' or None, got 1"),
        ({"activation": "relly"}, r"relly"),
        ({"unknown": 1}, r"unknown"),
        ({"k": 2}, r"MoE has no argument 'k', got k=2: .*gate=NoisyTopK\(k=2\)$"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        MoE(**{"num_experts": 8, "hidden_units": 7, **arguments})


def test_wrong_last_dimension():
    layer = MoE(4, 8)
    layer(tf.zeros([2, D]))
    with pytest.raises(ValueError, match=r'"?moe.*expected axis -1 .*value 5.*shape \(2, 6\)'):
        layer(tf.zeros([2, 6]))


def test_unknown_last_dimension():
    with pytest.raises(ValueError, match=r"moe.* known last dimension, got shape \(None, None\)"):
        MoE(4, 8).build((None, None))


def test_input_without_a_token_axis():
    with pytest.raises(ValueError, match=r"at least two axes|min_ndim=2"):
        MoE(4, 8)(tf.zeros([D]))
