"""Regularizers, constraints, initial biases and widths of experts on several devices equal one."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.gating import NoisyTopK
from tfmoe.layers import MoE
from tfmoe.optimizers import FusedAdam

X = np.random.default_rng(0).standard_normal((9, 5))
GATE = NoisyTopK(k=2, noise=False)


def correlations(weight):
    """Not a sum over elements: it needs the kernel of one expert."""
    return 0.3 * tf.reduce_sum(tf.abs(tf.matmul(weight, weight, transpose_a=True)))


def make(make_optimizer, **options):
    keras.utils.set_random_seed(3)
    layer = MoE(
        hidden_units=4,
        gate=GATE,
        gated=True,
        use_bias=True,
        shared_experts=2,
        output_units=3,
        bias_initializer="random_normal",
        kernel_regularizer=correlations,
        bias_regularizer="l1",
        kernel_constraint=keras.constraints.MaxNorm(0.8, axis=0),
        bias_constraint="unit_norm",
        dtype="float64",
        **options,
    )
    layer.build((None, 5))
    optimizer = make_optimizer()
    optimizer.build(layer.trainable_variables)
    return layer, optimizer


def train(layer, optimizer, rows, replicas):
    """Steps whose loss is the sum of the losses of all replicas; the losses."""
    losses = []
    for _ in range(optimizer.gradient_accumulation_steps or 1):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.sin(layer(X[rows], training=True)))
            penalty = tf.add_n([tf.cast(each, tf.float64) for each in layer.losses])
            scaled = loss + penalty / replicas
        gradients = tape.gradient(scaled, [v.value for v in layer.trainable_variables])
        optimizer.apply(gradients, layer.trainable_variables)
        losses += [collectives.all_reduce_sum(loss), penalty]
    return losses


@pytest.mark.parametrize(
    ("replicas", "options", "make_optimizer"),
    [
        (2, {"num_experts": 3}, lambda: FusedAdam(0.01)),
        pytest.param(
            2,
            {"num_experts": 4, "groups": 2},
            lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=2),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            4,
            {"num_experts": 4, "groups": 2},  # groups are divided
            lambda: keras.optimizers.SGD(0.1),
            marks=pytest.mark.slow,
        ),
        pytest.param(  # one device has no experts
            4, {"num_experts": 3}, lambda: keras.optimizers.Adam(0.01), marks=pytest.mark.slow
        ),
    ],
)
def test_replicas_equal_one_device(strategy_of, in_replicas, replicas, options, make_optimizer):
    layer, optimizer = make(make_optimizer, **options)
    first = [variable.numpy() for variable in layer.variables]
    expected = train(layer, optimizer, slice(0, 9), 1)
    strategy = strategy_of(replicas)
    bounds = [0, 5, 9] if replicas == 2 else [0, 4, 4, 6, 9]  # one device has no tokens
    with strategy.scope():
        other, optimizer = make(make_optimizer, **options)
    for a, b in zip(first, other.variables, strict=True):
        np.testing.assert_array_equal(a, b.numpy())
    results = in_replicas(
        strategy,
        lambda r: train(other, optimizer, slice(bounds[r], bounds[r + 1]), replicas),
    )
    for losses in results:
        np.testing.assert_allclose(losses, expected, rtol=1e-12)
    for a, b in zip(layer.trainable_variables, other.trainable_variables, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=0, atol=1e-10)


@pytest.mark.slow
def test_mirrored_strategy_equals_one_device():
    def fit(strategy):
        with strategy.scope():
            keras.utils.set_random_seed(3)
            layer = MoE(
                3, 4, gate=NoisyTopK(k=2, noise=False), kernel_regularizer=correlations,
                kernel_constraint=keras.constraints.MaxNorm(0.8, axis=0), metrics=False,
            )  # fmt: skip
            model = keras.Sequential([keras.Input([5]), layer])
            model.compile(keras.optimizers.SGD(0.1), "mse")
        history = model.fit(X[:8], X[:8], batch_size=8, epochs=2, shuffle=False, verbose=0)
        return history.history["loss"], [variable.numpy() for variable in layer.variables]

    losses, values = fit(tf.distribute.get_strategy())
    others, other_values = fit(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
    np.testing.assert_allclose(others, losses, rtol=1e-6)
    for a, b in zip(values, other_values, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
