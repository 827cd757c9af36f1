"""`fit` under `MirroredStrategy`, with balancing losses of several mixtures, equals one device."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe import MoE, NoisyTopK


def fit(strategy):
    """Fits a model on 2 epochs of 3 batches; the last one has fewer rows.

    Returns:
        The history and the weights.
    """
    keras.utils.set_random_seed(2)
    rng = np.random.default_rng(0)
    x = rng.normal(size=[44, 5]).astype("float32")
    with strategy.scope() if strategy else contextlib.nullcontext():
        gate = NoisyTopK(2, importance_weight=0.3, load_weight=0, noise=False)
        mixtures = [MoE(6, 8, gate, name=name) for name in ("low", "high")]
        model = keras.Sequential([keras.Input([5]), *mixtures, keras.layers.Dense(2)])
        model.compile(keras.optimizers.SGD(0.1), "mse")
    history = model.fit(x, np.sin(x[:, :2]), batch_size=16, epochs=2, shuffle=False, verbose=0)
    return history.history, model.get_weights()


@pytest.mark.parametrize("replicas", [2, 4])
def test_fit(replicas):
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
    (actual, weights), (expected, expected_weights) = fit(strategy), fit(None)
    assert set(actual) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(actual[name], values, rtol=1e-5, err_msg=name)
    for weight, other in zip(weights, expected_weights, strict=True):
        np.testing.assert_allclose(weight, other, rtol=1e-5, atol=1e-6)


def test_losses_outside_of_replicas_are_those_of_all():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        mixture = MoE(4, 4, NoisyTopK(2))
        mixture.build((None, 3))

    def number_of_losses():
        mixture(tf.ones([2, 3]), training=True)
        return tf.constant(len(mixture.losses))

    @tf.function(autograph=False)
    def run():
        counts = strategy.run(number_of_losses)
        return strategy.experimental_local_results(counts), tf.constant(len(mixture.losses))

    counts, total = run()
    assert [int(count) for count in counts] == [1, 1]
    assert int(total) == 2
