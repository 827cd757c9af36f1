"""The dense formula of a mixture (eq 1): every expert is computed for every token.

Axes: T tokens, E experts, D model.
"""

import numpy as np
import tensorflow as tf

from tfmoe.layers import MoE


def float64_mixture(gate, num_experts=5, width=3, **options):
    """A built `MoE` in float64 whose variables have random values, the same in every call."""
    layer = MoE(num_experts, 4, gate=gate, activation="tanh", dtype="float64", **options)
    layer.build((None, width))
    rng = np.random.default_rng(1)
    for weight in layer.trainable_weights:
        weight.assign(rng.standard_normal(weight.shape))
    return layer


def dense_gates(routing, num_tokens, num_experts):
    """The weights of a `Routing` as `[T, E]`; every assignment must be unique."""
    tokens, experts, weights = (values.numpy() for values in routing.assignments.by_token())
    assert len({*zip(tokens, experts, strict=True)}) == len(tokens)
    dense = np.zeros((num_tokens, num_experts))
    dense[tokens, experts] = weights
    return dense


def dense_mixture(layer, x, weights):
    """`Σ_i G(x)_i E_i(x)` with plain tensor operations.

    Args:
        layer: of `float64_mixture`.
        x: `[T, D]`.
        weights: `[T, E]`, the gate values.
    """
    w_in, w_out = (kernel.value for kernel in layer.experts.kernels)
    hidden = tf.tanh(tf.einsum("td,edh->teh", x, w_in))
    return tf.einsum("te,teh,ehd->td", weights, hidden, w_out)


def assert_dense(layer, x, gate_values, training=False):
    """Asserts that a mixture and its gradients equal the dense formula.

    Args:
        layer: of `float64_mixture`.
        x: `[T, D]` float64 array.
        gate_values: function of `[T, D]` tokens that returns the `[T, E]` gate values.
        training: argument of the call.
    """
    x = tf.constant(x)
    variables = [x, *(variable.value for variable in layer.trainable_variables)]
    results = []
    for function in (
        lambda: layer(x, training=training),
        lambda: dense_mixture(layer, x, gate_values(x)),
    ):
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = function()
            loss = tf.reduce_sum(tf.sin(outputs))
        results.append([outputs, *tape.gradient(loss, variables)])
    for actual, expected in zip(*results, strict=True):
        expected = tf.convert_to_tensor(expected).numpy()
        assert np.abs(expected).max() > 1e-3
        actual = tf.convert_to_tensor(actual).numpy()
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)
