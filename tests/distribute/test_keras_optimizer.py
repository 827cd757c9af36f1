import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.distribute import keras_optimizer
from tfmoe.distribute.shards import sharded
from tfmoe.optimizers import FusedAdam

# The gradients of a replicated variable on each replica, (3, 4) in total, and of the row of a
# sharded variable on each replica.
REPLICATED = [[1.0, 2.0], [2.0, 2.0]]
SHARDS = [[[12.0]], [[0.0]]]


def updates(strategy, in_replicas, make, factors=(1.0,)):
    """Trains a replicated and a sharded variable from 0; returns their negative values.

    Args:
        strategy: the strategy.
        in_replicas: the fixture.
        make: function that returns the optimizer.
        factors: the gradients above are multiplied by one factor in each step.
    """
    with strategy.scope():
        plain = keras.Variable([0.0, 0.0], name="plain")
        with sharded():
            shard = keras.Variable([[0.0], [0.0]], name="shard")
        optimizer = make()
        optimizer.build([plain, shard])
    for factor in factors:

        def step(r, factor=factor):
            gradients = [factor * tf.constant(REPLICATED[r]), factor * tf.constant(SHARDS[r])]
            optimizer.apply(gradients, [plain, shard])
            return tf.constant(0)

        in_replicas(strategy, step)
    return -plain.numpy(), -shard.numpy()


@pytest.mark.parametrize(
    ("options", "plain", "shard"),
    [
        ({}, [3, 4], [[12], [0]]),
        ({"clipvalue": 3.5}, [3, 3.5], [[3.5], [0]]),  # clipped after the sum: (1, 2) would pass
        ({"clipnorm": 1.0}, [3 / 5, 4 / 5], [[1], [0]]),  # norms 5 and 12
        ({"clipnorm": 6.0}, [3, 4], [[6], [0]]),
        ({"global_clipnorm": 1.0}, [3 / 13, 4 / 13], [[12 / 13], [0]]),  # 5² + 12² = 13²
        ({"global_clipnorm": 26.0}, [3, 4], [[12], [0]]),
    ],
)
def test_clipping_by_hand(strategy_of, in_replicas, options, plain, shard):
    result = updates(strategy_of(2), in_replicas, lambda: keras.optimizers.SGD(1.0, **options))
    np.testing.assert_allclose(result[0], plain, rtol=1e-6)
    np.testing.assert_allclose(result[1], shard, rtol=1e-6)


def test_norms_include_every_shard(strategy_of, in_replicas):
    strategy = strategy_of(2)
    with strategy.scope():
        with sharded():
            shard = keras.Variable([[0.0], [0.0]], name="shard")
        optimizer = keras.optimizers.SGD(1.0, clipnorm=1.0)
        optimizer.build([shard])

    def step(r):
        optimizer.apply([tf.constant([[[3.0]], [[4.0]]])[r]], [shard])  # norm 5, on two devices
        return tf.constant(0)

    in_replicas(strategy, step)
    np.testing.assert_allclose(-shard.numpy(), [[3 / 5], [4 / 5]], rtol=1e-6)


def test_accumulated_gradients_are_clipped_together(strategy_of, in_replicas):
    def make():
        return keras.optimizers.SGD(1.0, global_clipnorm=1.0, gradient_accumulation_steps=2)

    # The mean over two steps of factors 1 and 3 is twice the gradients: norm 26, clipped to 1.
    plain, shard = updates(strategy_of(2), in_replicas, make, factors=(1.0, 3.0))
    np.testing.assert_allclose(plain, [3 / 13, 4 / 13], rtol=1e-6)
    np.testing.assert_allclose(shard, [[12 / 13], [0]], rtol=1e-6)


def test_fused_adam_updates_shards(strategy_of, in_replicas):
    results = [
        updates(strategy_of(2), in_replicas, lambda make=make: make(0.1, clipnorm=0.5))
        for make in (FusedAdam, keras.optimizers.Adam)
    ]
    for fused, expected in zip(*results, strict=True):
        np.testing.assert_allclose(fused, expected, rtol=1e-5)


def test_moving_averages(strategy_of, in_replicas):
    """Averages 1 and 0.5·1 + 0.5·2 of steps of 1, which after the second step are the weights."""

    def make():
        return keras.optimizers.SGD(
            1.0, clipvalue=1.0, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2
        )

    plain, shard = updates(strategy_of(2), in_replicas, make, factors=(1.0, 1.0))
    np.testing.assert_allclose(plain, [1.5, 1.5], rtol=1e-6)
    np.testing.assert_allclose(shard, [[1.5], [0]], rtol=1e-6)


def test_moving_averages_at_the_end_of_fit(strategy_of):
    """Keras copies them to the weights outside of replicas."""
    with strategy_of(2).scope():
        with sharded():
            shard = keras.Variable([[0.0], [0.0]], name="shard")
        optimizer = keras.optimizers.SGD(1.0, use_ema=True)
        optimizer.build([shard])
        optimizer._model_variables_moving_average[0].value.assign([[3.0], [4.0]])
        optimizer.finalize_variable_values([shard])
    np.testing.assert_array_equal(shard.numpy(), [[3], [4]])


def test_incomplete_accumulation_changes_nothing(strategy_of, in_replicas):
    def make():
        return keras.optimizers.SGD(1.0, gradient_accumulation_steps=2)

    plain, shard = updates(strategy_of(2), in_replicas, make)
    assert not np.any(plain) and not np.any(shard)


def test_a_single_replica_uses_keras_methods(strategy_of):
    strategy = strategy_of(1)
    with strategy.scope():
        variable = keras.Variable([0.0, 0.0])
        optimizer = keras.optimizers.SGD(1.0, global_clipnorm=1.0)
        optimizer.build([variable])
    tf.function(lambda: strategy.run(lambda: optimizer.apply([tf.constant([3.0, 4.0])])))()
    np.testing.assert_allclose(variable.numpy(), [-3 / 5, -4 / 5], rtol=1e-6)
    assert not hasattr(optimizer, "_sharded_flags")


def test_keras_methods_are_used_without_a_strategy(strategy_of):
    strategy_of(2)  # installs
    variable = keras.Variable([0.0, 0.0])
    optimizer = keras.optimizers.SGD(1.0, clipnorm=1.0)
    optimizer.apply([tf.constant([3.0, 4.0])], [variable])
    np.testing.assert_allclose(variable.numpy(), [-3 / 5, -4 / 5], rtol=1e-6)
    assert not hasattr(optimizer, "_sharded_flags")


def test_methods_are_replaced_once():
    keras_optimizer.install()
    before = [getattr(keras.optimizers.Optimizer, name) for name in keras_optimizer.REPLACED]
    keras_optimizer.install()
    for name, method in zip(keras_optimizer.REPLACED, before, strict=True):
        assert getattr(keras.optimizers.Optimizer, name) is method
        assert not hasattr(method.original, "original")


def test_is_sharded(strategy_of):
    with strategy_of(2).scope():
        plain = keras.Variable([0.0, 0.0])
        with sharded():
            shard = keras.Variable([0.0, 0.0])
    assert keras_optimizer.is_sharded(shard.value)
    assert not keras_optimizer.is_sharded(plain.value)
    assert not keras_optimizer.is_sharded(tf.Variable(0.0))


def test_embedding_gradients_stay_sparse():
    grad = tf.IndexedSlices(tf.constant([[1.0, 2.0], [2.0, 0.0]]), tf.constant([7, 7]), [9, 2])
    assert keras_optimizer.sum_of_squares(grad) == 1 + 4 + 4
    scaled = keras_optimizer.scaled(grad, 10.0)
    np.testing.assert_array_equal(scaled.values, [[10, 20], [20, 0]])
    np.testing.assert_array_equal(scaled.indices, [7, 7])
    np.testing.assert_array_equal(keras_optimizer.scaled(tf.constant([1.0]), 10.0), [10])
