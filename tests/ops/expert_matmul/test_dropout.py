"""Dropout of hidden activations, with given masks."""

import numpy as np
import pytest
import tensorflow as tf
from ops.expert_matmul.dense_formula import (
    assert_close,
    dense_formula,
    gradients,
    maybe_compiled,
    random_stacks,
    swiglu,
    value_and_gradients,
)
from ops.expert_matmul.test_other_derivatives import (
    forward_mode,
    gradients_of_gradients,
    jacobians,
)

from tfmoe.ops.expert_dropout import HiddenDropout
from tfmoe.ops.expert_matmul import equal_expert_ffn, expert_ffn, static_expert_ffn
from tfmoe.ops.expert_network import gated

COUNTS = np.array([3, 0, 6, 1], np.int32)
RATE = 0.4


def random_dropout(num_rows, *widths):
    rng = np.random.default_rng(0)
    return HiddenDropout(RATE, [tf.constant(rng.random((num_rows, w)) >= RATE) for w in widths])


def dropped(activation, dropout):
    """The activations of the hidden layers in order, each with the factors of its dropout."""
    layers = iter([tf.cast(keep, tf.float64) / (1 - RATE) for keep in dropout.keeps])
    return lambda sums: activation(sums) * next(layers)


def test_two_experts_by_hand(all_runners):
    # Expert 0: relu(x · [1, -1, 1]) · [2, 3, 4]'; expert 1: relu(x · [-1, 2, 1]) · [1, 10, 0]'.
    kernels = [
        tf.constant([[[1.0, -1.0, 1.0]], [[-1.0, 2.0, 1.0]]]),
        tf.constant([[[2.0], [3.0], [4.0]], [[1.0], [10.0], [0.0]]]),
    ]
    keep = tf.constant([[True, True, False], [False, True, True], [True, False, True]])
    # 5: [5, 0, 5] -> [20, 0, 0] -> 40. -1: [0, 1, 0] -> [0, 4, 0] -> 12. 2: [0, 4, 2] -> 0.
    x, counts = tf.constant([[5.0], [-1.0], [2.0]]), tf.constant([2, 1])
    dropout = HiddenDropout(0.75, [keep])
    with tf.GradientTape() as tape:
        tape.watch([x, kernels])
        y = expert_ffn(x, counts, kernels, dropout=dropout)
    np.testing.assert_array_equal(y, [[40.0], [12.0], [0.0]])
    dx, (dfirst, dsecond) = tape.gradient(y, [x, kernels])
    # Kept and positive: 4 · first · second. The last row has only the first unit, which is 0.
    np.testing.assert_array_equal(dx, [[8.0], [-12.0], [0.0]])
    np.testing.assert_array_equal(dfirst, [[[40.0, -12.0, 0.0]], [[0.0, 0.0, 0.0]]])
    np.testing.assert_array_equal(dsecond[:, :, 0], [[20.0, 4.0, 0.0], [0.0, 0.0, 8.0]])


@pytest.mark.parametrize(
    ("recompute", "compiled", "is_gated"),
    [
        (False, False, False),
        (True, True, True),
        pytest.param(False, True, True, marks=pytest.mark.slow),
        pytest.param(True, False, False, marks=pytest.mark.slow),
    ],
)
def test_equals_the_dense_formula(all_runners, recompute, compiled, is_gated):
    tf.random.set_seed(0)
    kernels, biases = random_stacks(4, [3, 5, 6, 3], gated=is_gated)
    x = tf.random.normal([12, 3], dtype=tf.float64)  # the last two rows belong to no expert
    dropout = random_dropout(12, 5, 6)

    def sparse(x, kernels, biases):
        activation = gated(tf.nn.silu) if is_gated else tf.nn.gelu
        return expert_ffn(
            x, tf.constant(COUNTS), kernels, biases, activation, recompute, dropout=dropout
        )

    def dense(x, kernels, biases):
        activation = dropped(swiglu if is_gated else tf.nn.gelu, dropout)
        return dense_formula(x, COUNTS, kernels, biases, activation)

    assert_close(
        maybe_compiled(lambda *tensors: value_and_gradients(sparse, *tensors), compiled)(
            x, kernels, biases
        ),
        value_and_gradients(dense, x, kernels, biases),
    )


@pytest.mark.parametrize("recompute", [False, True])
def test_equal_rows(recompute):
    tf.random.set_seed(0)
    kernels, biases = random_stacks(4, [3, 5, 6, 3], gated=True)
    x, dropout = tf.random.normal([12, 3], dtype=tf.float64), random_dropout(12, 5, 6)
    reshaped = HiddenDropout(RATE, [tf.reshape(keep, [4, 3, -1]) for keep in dropout.keeps])

    @tf.function
    def equal(x, kernels, biases):
        rows, activation = tf.reshape(x, [4, 3, 3]), gated(tf.nn.silu)
        y = equal_expert_ffn(rows, kernels, biases, activation, recompute, reshaped)
        return tf.reshape(y, [12, 3])

    def dense(x, kernels, biases):
        return dense_formula(x, [3] * 4, kernels, biases, dropped(swiglu, dropout))

    assert_close(
        value_and_gradients(equal, x, kernels, biases),
        value_and_gradients(dense, x, kernels, biases),
    )


@pytest.mark.parametrize(
    "derivatives",
    [
        gradients_of_gradients,
        pytest.param(forward_mode, marks=pytest.mark.slow),
        pytest.param(lambda *a: jacobians(*a, True), id="jacobians", marks=pytest.mark.slow),
    ],
)
def test_other_derivatives(all_runners, derivatives):
    tf.random.set_seed(0)
    kernels, biases = random_stacks(4, [3, 5, 2])
    x, dropout = tf.random.normal([12, 3], dtype=tf.float64), random_dropout(12, 5)

    def sparse(x, kernels, biases):
        return expert_ffn(x, tf.constant(COUNTS), kernels, biases, tf.nn.gelu, dropout=dropout)

    def dense(x, kernels, biases):
        return dense_formula(x, COUNTS, kernels, biases, dropped(tf.nn.gelu, dropout))

    tensors = [x, *kernels, *biases]
    assert_close(derivatives(sparse, tensors), derivatives(dense, tensors))


def test_no_rows(all_runners):
    kernels, biases = random_stacks(3, [3, 5, 2])
    dropout = HiddenDropout(RATE, [tf.zeros([0, 5], tf.bool)])

    def empty(x, kernels, biases):
        return expert_ffn(x, tf.zeros([3], tf.int32), kernels, biases, dropout=dropout)

    for gradient in gradients(empty, [tf.zeros([0, 3], tf.float64), *kernels, *biases]):
        assert not np.any(gradient)


def test_static_ffn_drops_the_same_activations():
    tf.random.set_seed(0)
    kernels, _ = random_stacks(4, [3, 5, 3])
    x, dropout = tf.random.normal([12, 3], dtype=tf.float64), random_dropout(12, 5)
    counts = tf.constant(COUNTS)
    results = [
        value_and_gradients(
            lambda x, kernels, biases, ffn=ffn: ffn(x, counts, kernels, dropout=dropout),
            x,
            kernels,
            [],
        )
        for ffn in (static_expert_ffn, expert_ffn)
    ]
    assert_close(*results)
