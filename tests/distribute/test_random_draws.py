"""Random draws of replicas: dropout and noise differ by replica and are reproducible by seed."""

import contextlib

import keras
import numpy as np
import tensorflow as tf

from tfmoe.distribute.tensorflow_internals import ReplicaSeeds
from tfmoe.gating import NoisyTopK, Softmax
from tfmoe.layers import MoE, VocabularySoftmax

D, H, E = 6, 5, 8


def dropout_outputs(strategy, in_replicas, seed=3):
    with strategy.scope() if strategy else contextlib.nullcontext():
        layer = keras.layers.Dropout(0.5, seed=seed)
        layer.build((None, 40))
    if strategy is None:
        return [layer(tf.ones([1, 40]), training=True).numpy()]
    return in_replicas(strategy, lambda r: layer(tf.ones([1, 40]), training=True))


def test_dropout_differs_by_replica_and_is_reproducible(strategy_of, in_replicas):
    first, second = dropout_outputs(strategy_of(2), in_replicas)
    assert np.any(first != second)
    np.testing.assert_array_equal(dropout_outputs(strategy_of(2), in_replicas), [first, second])
    assert np.any(dropout_outputs(strategy_of(2), in_replicas, seed=4)[0] != first)


def test_the_first_replica_draws_like_a_single_device(strategy_of, in_replicas):
    (expected,) = dropout_outputs(None, in_replicas)
    for replicas in (1, 2):
        np.testing.assert_array_equal(
            dropout_outputs(strategy_of(replicas), in_replicas)[0], expected
        )


def noisy_outputs(strategy, in_replicas):
    """The output of a mixture with noise for one token, the same on all replicas."""
    x = tf.ones([1, D])
    with strategy.scope() if strategy else contextlib.nullcontext():
        keras.utils.set_random_seed(3)
        layer = MoE(E, H, gate=NoisyTopK(k=2))
        layer.build((None, D))
    if strategy is None:
        return [layer(x, training=True).numpy()]
    return in_replicas(strategy, lambda r: layer(x, training=True))


def test_noise_differs_by_replica_and_is_reproducible(strategy_of, in_replicas):
    first, second = noisy_outputs(strategy_of(2), in_replicas)
    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_array_equal(noisy_outputs(strategy_of(2), in_replicas), [first, second])
    np.testing.assert_array_equal(
        noisy_outputs(strategy_of(1), in_replicas), noisy_outputs(None, in_replicas)
    )
    np.testing.assert_allclose(first, noisy_outputs(None, in_replicas)[0], rtol=1e-6)


def dropout_step(strategy, in_replicas):
    """The outputs for many tokens and the sum of a gradient, with dropout in the experts."""
    with strategy.scope() if strategy else contextlib.nullcontext():
        keras.utils.set_random_seed(3)
        layer = MoE(E, H, gate=Softmax(), expert_dropout=0.5, shared_experts=1)
        layer.build((None, D))

    def step(_):
        with tf.GradientTape() as tape:
            y = layer(tf.ones([1000, D]), training=True)
        gradient = tape.gradient(y, layer.experts.kernels[0].value)
        return y, tf.reduce_sum(tf.abs(gradient))

    return in_replicas(strategy, step), layer(tf.ones([1, D])).numpy()


def test_dropout_in_experts_differs_by_replica_and_is_reproducible(strategy_of, in_replicas):
    (first, second), expected = dropout_step(strategy_of(2), in_replicas)
    assert np.abs(first[0] - second[0]).max() > 1e-3
    for (y, gradient), (again, _) in zip(
        (first, second), dropout_step(strategy_of(2), in_replicas)[0], strict=True
    ):
        assert gradient > 0
        np.testing.assert_array_equal(y, again)
        # The mean of the draws is the output without dropout.
        assert np.all(np.abs(y.mean(axis=0) - expected) < 5 * y.std(axis=0) / np.sqrt(1000))


def sampled_losses(strategy, in_replicas):
    """The losses of a sampled softmax for the same words on all replicas, with two draws."""
    x, targets = tf.ones([3, D]), tf.constant([0, 7, 300])
    with strategy.scope() if strategy else contextlib.nullcontext():
        keras.utils.set_random_seed(3)
        layer = VocabularySoftmax(1000, num_sampled=10, seed=3)
        layer.build((None, D))

    def twice(_):
        return tf.stack([layer.training_loss(x, targets) for _ in range(2)])

    return [twice(0).numpy()] if strategy is None else in_replicas(strategy, twice)


def test_candidates_are_the_same_on_any_number_of_devices(strategy_of, in_replicas):
    (expected,) = sampled_losses(None, in_replicas)
    assert np.all(expected[0] != expected[1])
    for replicas in (1, 2, 4):
        for losses in sampled_losses(strategy_of(replicas), in_replicas):
            np.testing.assert_allclose(losses, expected, rtol=1e-6)


def test_a_random_state_is_one_logical_value(strategy_of):
    with strategy_of(2).scope():
        state = keras.random.SeedGenerator(7).state
    assert isinstance(state.value, ReplicaSeeds)
    np.testing.assert_array_equal(state.numpy(), [7, 0])
    state.assign([9, 5])
    np.testing.assert_array_equal(state.numpy(), [9, 5])
    parts = [part.numpy().tolist() for part in state.value.local_parts()]
    assert parts == [[9, 5], [9 + 1_000_003, 5]]
