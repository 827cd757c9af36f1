"""Random experts, the dense formula and derivatives, for the tests of `expert_matmul`."""

from itertools import pairwise

import numpy as np
import tensorflow as tf

from tfmoe.ops.expert_matmul import expert_ffn
from tfmoe.ops.expert_network import gated


def dense_formula(x, counts, kernels, biases, activation):
    """Runs every expert on every row, then selects the expert of each row."""
    num_rows, num_experts = x.shape[0], kernels[0].shape[0]
    expert = np.full(num_rows, num_experts)
    expert[: np.sum(counts)] = np.repeat(np.arange(num_experts), counts)
    h = tf.tile(x[None], [num_experts, 1, 1])
    for i, kernel in enumerate(kernels):
        h = tf.matmul(activation(h) if i else h, kernel)
        h = h + biases[i][:, None] if biases else h
    return tf.einsum("ead,ae->ad", h, tf.one_hot(expert, num_experts, dtype=x.dtype))


def swiglu(sums):
    """Applies silu to the first half of the columns, and multiplies with the second half."""
    half = sums.shape[-1] // 2
    first, second = sums[..., :half], sums[..., half:]
    return first / (1 + tf.exp(-first)) * second


def random_stacks(num_experts, widths, dtype=tf.float64, gated=False):
    pairs = list(pairwise(widths))
    if gated:
        pairs = [*((a, 2 * b) for a, b in pairs[:-1]), pairs[-1]]
    kernels = [tf.random.normal([num_experts, a, b], dtype=dtype) for a, b in pairs]
    biases = [tf.random.normal([num_experts, b], dtype=dtype) for _, b in pairs]
    return kernels, biases


def value_and_gradients(function, x, kernels, biases):
    with tf.GradientTape() as tape:
        tape.watch([x, kernels, biases])
        y = function(x, kernels, biases)
        loss = tf.reduce_sum(tf.sin(y))
    return [y, *tf.nest.flatten(tape.gradient(loss, [x, kernels, biases]))]


def assert_close(actual, expected):
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert isinstance(a, tf.Tensor)  # no IndexedSlices
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def derivative_case(num_experts=5, is_gated=False):
    """Returns rows and stacks, `expert_ffn` and the dense formula as functions of them.

    Some experts have no rows, and some rows have no expert.
    """
    tf.random.set_seed(3)
    counts = np.resize(np.array([3, 0, 2, 1, 0], np.int32), num_experts)
    kernels, biases = random_stacks(num_experts, [3, 4, 2], gated=is_gated)
    activations = (gated(tf.nn.silu), swiglu) if is_gated else (tf.nn.gelu, tf.nn.gelu)
    x = tf.random.normal([counts.sum() + 2, 3], dtype=tf.float64)

    def sparse(x, kernels, biases, recompute=False):
        return expert_ffn(x, tf.constant(counts), kernels, biases, activations[0], recompute)

    def dense(x, kernels, biases):
        return dense_formula(x, counts, kernels, biases, activations[1])

    return [x, *kernels, *biases], sparse, dense


def gradients(function, tensors):
    x, first, second, *biases = tensors
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        loss = tf.reduce_sum(tf.sin(function(x, [first, second], biases)))
    return tape.gradient(loss, tensors)


def maybe_compiled(function, compiled):
    return tf.function(function) if compiled else function
