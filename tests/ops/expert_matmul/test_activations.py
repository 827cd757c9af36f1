"""Activations that are layers, read variables or have no gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ops.expert_matmul.dense_formula import (
    assert_close,
    dense_formula,
    derivative_case,
    maybe_compiled,
    value_and_gradients,
)

from tfmoe.ops.expert_matmul import expert_ffn


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", ["layer", "closure"])
def test_an_activation_with_weights_has_no_gradient(all_runners, kind, compiled):
    (x, *stacks), _, _ = derivative_case()
    kernels, biases = stacks[:2], stacks[2:]
    slope = tf.Variable(0.5, dtype=tf.float64)
    layer = keras.layers.PReLU(alpha_initializer="ones", dtype="float64")
    layer.build([None, 4])
    activation = layer if kind == "layer" else lambda h: tf.where(h > 0, h, slope * h)

    def ffn(x):
        return expert_ffn(x, tf.constant([3, 0, 2, 1, 0]), kernels, biases, activation)

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = ffn(x)
        return tape.gradient(y, x)

    assert np.any(maybe_compiled(ffn, compiled)(x))  # inference works
    with pytest.raises(ValueError, match="activation reads the trainable variables"):
        maybe_compiled(gradient, compiled)(x)


def test_a_layer_without_weights_is_an_activation(all_runners):
    (x, *stacks), _, _ = derivative_case()
    counts, kernels, biases = tf.constant([3, 0, 2, 1, 0]), stacks[:2], stacks[2:]
    layer = keras.layers.LeakyReLU(0.25, dtype="float64")
    assert_close(
        value_and_gradients(lambda *a: expert_ffn(a[0], counts, *a[1:], layer), x, kernels, biases),
        value_and_gradients(
            lambda *a: dense_formula(
                a[0], counts.numpy(), *a[1:], lambda h: tf.nn.leaky_relu(h, 0.25)
            ),
            x,
            kernels,
            biases,
        ),
    )


def test_an_activation_of_unknown_shape(all_runners):
    (x, *stacks), _, _ = derivative_case()
    counts, kernels, biases = tf.constant([3, 0, 2, 1, 0]), stacks[:2], stacks[2:]

    def activation(h):
        return tf.py_function(tf.nn.relu, [h], h.dtype)

    ffn = tf.function(lambda *a: expert_ffn(a[0], counts, *a[1:], activation))
    expected = dense_formula(x, counts.numpy(), kernels, biases, tf.nn.relu)
    np.testing.assert_allclose(ffn(x, kernels, biases), expected, rtol=1e-10)


def test_an_activation_without_a_gradient(all_runners):
    """`sign` is constant almost everywhere: the first layer's gradients are 0."""
    (x, *stacks), _, _ = derivative_case()
    counts, kernels, biases = tf.constant([3, 0, 2, 1, 0]), stacks[:2], stacks[2:]
    _, dx, dfirst, dsecond, _, _ = value_and_gradients(
        lambda *a: expert_ffn(a[0], counts, *a[1:], lambda h: tf.stop_gradient(tf.sign(h))),
        x,
        kernels,
        biases,
    )
    assert not np.any(dx) and not np.any(dfirst) and np.any(dsecond)
