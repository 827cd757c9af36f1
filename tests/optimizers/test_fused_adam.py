import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.optimizers import FusedAdam


def run_steps(optimizer, gradients, dtype="float64"):
    """The variable and the slots after all steps."""
    variable = keras.Variable(np.linspace(-1, 1, 12).reshape(3, 4), dtype=dtype)
    optimizer.build([variable])
    step = tf.function(lambda gradient: optimizer.apply([gradient], [variable]))
    for gradient in gradients:
        step(tf.constant(gradient, dtype))
    return [variable.numpy(), *(slot.numpy() for slot in optimizer.variables)]


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"clipnorm": 0.5, "weight_decay": 0.1}])
def test_equals_keras_adam(options):
    gradients = np.random.default_rng(0).standard_normal((4, 3, 4))
    gradients[1, 2] = 0
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
    fused, adam = (
        run_steps(cls(rate, 0.8, 0.9, 1e-3, **options), gradients)
        for cls in (FusedAdam, keras.optimizers.Adam)
    )
    for actual, expected in zip(fused, adam, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_sparse_gradients_equal_keras_adam():
    results = []
    for cls in (FusedAdam, keras.optimizers.Adam):
        variable = keras.Variable(np.ones([4, 2]))
        slices = tf.IndexedSlices(
            tf.constant([[1.0, 2.0], [3.0, 4.0]]), tf.constant([2, 0]), [4, 2]
        )
        cls(0.1).apply([slices], [variable])
        results.append(variable.numpy())
    np.testing.assert_array_equal(*results)


def test_half_precision():
    gradients = np.random.default_rng(0).standard_normal((2, 3, 4))
    fused, adam = (
        run_steps(cls(0.1), gradients, "bfloat16") for cls in (FusedAdam, keras.optimizers.Adam)
    )
    np.testing.assert_allclose(fused[0].astype("f"), adam[0].astype("f"), atol=0.02)


def test_two_replicas():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        variable, optimizer = keras.Variable(np.ones([2, 2])), FusedAdam(0.1)
        optimizer.build([variable])

    @tf.function
    def step():
        strategy.run(lambda: optimizer.apply([tf.constant([[1.0, -2.0], [0.5, 4.0]])], [variable]))

    step()
    # The first step of Adam is the learning rate, against the sign of the gradient.
    np.testing.assert_allclose(variable.numpy(), [[0.9, 1.1], [0.9, 0.9]], rtol=1e-5)
