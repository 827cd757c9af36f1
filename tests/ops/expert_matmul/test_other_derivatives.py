"""Jacobians, derivatives of a higher order, forward mode."""

import numpy as np
import pytest
import tensorflow as tf
from ops.expert_matmul.dense_formula import (
    assert_close,
    derivative_case,
    gradients,
    maybe_compiled,
    random_stacks,
)

from tfmoe.ops import expert_runners
from tfmoe.ops.expert_matmul import expert_ffn


def gradients_of_gradients(function, tensors):
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        loss = tf.add_n([tf.reduce_sum(tf.sin(g)) for g in gradients(function, tensors)])
    return tape.gradient(loss, tensors)


def third_derivatives(function, tensors):
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        second = gradients_of_gradients(function, tensors)
        loss = tf.add_n([tf.reduce_sum(tf.sin(g)) for g in second])
    return tape.gradient(loss, tensors)


def jacobians(function, tensors, pfor):
    x, first, second, *biases = tensors
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(tensors)
        y = function(x, [first, second], biases)
    row_jacobian = tape.batch_jacobian(y, x, experimental_use_pfor=pfor)
    return [row_jacobian, *tape.jacobian(y, [first, biases[0]], experimental_use_pfor=pfor)]


def hessian(function, tensors, pfor):
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(tensors)
        dkernel = gradients(function, tensors)[1]
    return [tape.jacobian(dkernel, tensors[2], experimental_use_pfor=pfor)]


def forward_mode(function, tensors):
    """Jacobian-vector products of the output and of the gradients."""
    x, first, second, *biases = tensors
    tangents = [tf.sin(tensor) for tensor in tensors]
    with tf.autodiff.ForwardAccumulator(tensors, tangents) as accumulator:
        y = function(x, [first, second], biases)
        first_order = gradients(function, tensors)
    return [accumulator.jvp(y), *accumulator.jvp(first_order)]


@pytest.mark.parametrize(
    ("recompute", "compiled"),
    [
        (False, True),
        (True, False),
        pytest.param(False, False, marks=pytest.mark.slow),
        pytest.param(True, True, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("derivatives", [gradients_of_gradients, third_derivatives, forward_mode])
def test_other_derivatives(all_runners, derivatives, recompute, compiled):
    tensors, sparse, dense = derivative_case()
    run = maybe_compiled(
        lambda tensors: derivatives(lambda *stacks: sparse(*stacks, recompute), tensors), compiled
    )
    assert_close(run(tensors), derivatives(dense, tensors))


@pytest.mark.parametrize(
    "derivatives",
    [gradients_of_gradients, pytest.param(forward_mode, marks=pytest.mark.slow)],
)
def test_other_derivatives_of_gated_experts(all_runners, derivatives):
    tensors, sparse, dense = derivative_case(is_gated=True)
    run = tf.function(lambda tensors: derivatives(sparse, tensors))
    assert_close(run(tensors), derivatives(dense, tensors))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("pfor", [False, True])
def test_jacobians(all_runners, pfor, compiled):
    tensors, sparse, dense = derivative_case()
    run = maybe_compiled(lambda tensors: jacobians(sparse, tensors, pfor), compiled)
    assert_close(run(tensors), jacobians(dense, tensors, True))


@pytest.mark.parametrize("max_unrolled, pfor", [(64, False), (0, False), (0, True)])
def test_hessian(monkeypatch, max_unrolled, pfor):
    monkeypatch.setattr(expert_runners, "UNROLLED_EXPERTS", max_unrolled)
    tensors, sparse, dense = derivative_case()
    actual = tf.function(lambda tensors: hessian(sparse, tensors, pfor))(tensors)
    assert_close(actual, hessian(dense, tensors, True))


@pytest.mark.parametrize("num_experts", [5, expert_runners.UNROLLED_EXPERTS + 1])
def test_second_order_by_finite_differences(num_experts):
    tensors, sparse, _ = derivative_case(num_experts)
    directions = [tf.cos(tensor) for tensor in tensors]
    shifted = [
        gradients(sparse, [t + h * d for t, d in zip(tensors, directions, strict=True)])
        for h in (1e-5, -1e-5)
    ]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        slope = tf.add_n(
            [
                tf.reduce_sum(g * d)
                for g, d in zip(gradients(sparse, tensors), directions, strict=True)
            ]
        )
    for actual, above, below in zip(tape.gradient(slope, tensors), *shifted, strict=True):
        np.testing.assert_allclose(actual, (above - below) / 2e-5, rtol=1e-6, atol=1e-6)


def test_forward_mode_around_a_compiled_function():
    tensors, sparse, dense = derivative_case()

    def product(function):
        with tf.autodiff.ForwardAccumulator(tensors[0], tf.sin(tensors[0])) as accumulator:
            y = function(tensors[0], tensors[1:3], tensors[3:])
        return [accumulator.jvp(y)]

    assert_close(product(tf.function(sparse)), product(dense))


def test_forward_mode_with_a_tangent_of_the_upstream_gradient_only(all_runners):
    """The gradient is linear in `dy`, and only `dy` has a tangent."""
    (x, first, second, *biases), sparse, dense = derivative_case()
    dy = tf.random.normal([len(x), 2], dtype=tf.float64)

    @tf.function
    def product(function, dy):
        with tf.autodiff.ForwardAccumulator(dy, tf.sin(dy)) as accumulator:
            with tf.GradientTape() as tape:
                tape.watch([x, first])
                y = function(x, [first, second], biases)
            first_order = tape.gradient(y, [x, first], dy)
        return accumulator.jvp(first_order)

    assert_close(product(sparse, dy), product(dense, dy))


@pytest.mark.parametrize("derivatives", [gradients_of_gradients, forward_mode])
def test_other_derivatives_without_rows(all_runners, derivatives):
    kernels, biases = random_stacks(3, [3, 5, 2])

    def sparse(x, kernels, biases):
        return expert_ffn(x, tf.zeros([3], tf.int32), kernels, biases)

    tensors = [tf.zeros([0, 3], tf.float64), *kernels, *biases]
    for derivative in derivatives(sparse, tensors):
        assert np.all(derivative.numpy() == 0)


def test_second_order_in_bfloat16(all_runners):
    tensors, sparse, _ = derivative_case()
    rounded = [tf.cast(tensor, "bfloat16") for tensor in tensors]
    exact = gradients_of_gradients(sparse, [tf.cast(tensor, "float64") for tensor in rounded])
    for actual, expected in zip(gradients_of_gradients(sparse, rounded), exact, strict=True):
        assert actual.dtype == tf.bfloat16
        np.testing.assert_allclose(
            tf.cast(actual, "float64"), expected, atol=0.1 * np.abs(expected).max()
        )
