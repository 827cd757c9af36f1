"""Outputs and first gradients."""

import numpy as np
import pytest
import tensorflow as tf
from ops.expert_matmul.dense_formula import (
    assert_close,
    dense_formula,
    random_stacks,
    swiglu,
    value_and_gradients,
)

from tfmoe.ops import expert_network, expert_runners
from tfmoe.ops.expert_matmul import (
    equal_expert_ffn,
    expert_ffn,
    grouped_matmul,
    static_expert_ffn,
)
from tfmoe.ops.expert_network import gated


def test_two_experts_by_hand(all_runners):
    # Expert 0: relu(x · [1, -1]) · [2, 3]'; expert 1: relu(x · [-1, 2]) · [1, 10]'.
    kernels = [
        tf.constant([[[1.0, -1.0]], [[-1.0, 2.0]]]),
        tf.constant([[[2.0], [3.0]], [[1.0], [10.0]]]),
    ]
    x = tf.constant([[5.0], [-1.0], [2.0], [-3.0], [7.0]])
    # 5: [5, 0] -> 10. -1: [0, 1] -> 3. 2: [0, 4] -> 40. -3: [3, 0] -> 3. The last has no expert.
    y = expert_ffn(x, tf.constant([2, 2]), kernels)
    np.testing.assert_array_equal(y, [[10.0], [3.0], [40.0], [3.0], [0.0]])


def test_grouped_matmul_by_hand(all_runners):
    kernel = tf.constant([[[2.0, 0.0]], [[9.0, 9.0]], [[1.0, -1.0]]])
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        y = grouped_matmul(tf.constant([[1.0], [2.0], [3.0]]), tf.constant([1, 0, 2]), kernel)
    np.testing.assert_array_equal(y, [[2.0, 0.0], [2.0, -2.0], [3.0, -3.0]])
    # The gradient of the sum of y is the sum of the expert's inputs, in both columns.
    np.testing.assert_array_equal(
        tape.gradient(y, kernel), [[[1.0, 1.0]], [[0.0, 0.0]], [[5.0, 5.0]]]
    )


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    "widths, use_bias, activation",
    [
        ([3, 5, 4], False, tf.nn.relu),
        ([3, 5, 6, 3], True, tf.nn.gelu),  # two hidden layers
        ([3, 4], True, tf.nn.relu),  # no hidden layer
    ],
)
def test_equals_the_dense_formula(
    all_runners, monkeypatch, widths, use_bias, activation, recompute, compiled
):
    monkeypatch.setattr(expert_network, "LARGE_KERNEL", 16)  # some kernels are large
    tf.random.set_seed(0)
    counts = np.array([3, 0, 6, 1, 0], np.int32)  # two experts without rows
    kernels, biases = random_stacks(5, widths)
    biases = biases if use_bias else []
    x = tf.random.normal([12, 3], dtype=tf.float64)  # the last two rows belong to no expert

    def sparse(x, counts, kernels, biases):
        return expert_ffn(x, counts, kernels, biases or None, activation, recompute)

    if compiled:
        sparse = tf.function(sparse, reduce_retracing=True)
        signature = sparse.get_concrete_function(
            tf.TensorSpec([None, 3], tf.float64),
            tf.TensorSpec([5], tf.int32),
            [tf.TensorSpec(kernel.shape, tf.float64) for kernel in kernels],
            [tf.TensorSpec(bias.shape, tf.float64) for bias in biases],
        )
        assert signature.structured_outputs.shape.as_list() == [None, widths[-1]]
    assert_close(
        value_and_gradients(
            lambda x, kernels, biases: sparse(x, tf.constant(counts), kernels, biases),
            x,
            kernels,
            biases,
        ),
        value_and_gradients(
            lambda x, kernels, biases: dense_formula(x, counts, kernels, biases, activation),
            x,
            kernels,
            biases,
        ),
    )


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    ("widths", "use_bias"),
    [pytest.param([3, 5, 4], False, marks=pytest.mark.slow), ([3, 5, 6, 3], True)],
)
def test_gated_experts_equal_the_dense_formula(all_runners, widths, use_bias, recompute):
    tf.random.set_seed(0)
    kernels, biases = random_stacks(4, widths, gated=True)
    biases = biases if use_bias else []
    x = tf.random.normal([12, 3], dtype=tf.float64)
    by_silu = gated(tf.nn.silu)

    def sparse(counts):
        def run(x, kernels, biases):
            return expert_ffn(x, tf.constant(counts), kernels, biases, by_silu, recompute)

        return value_and_gradients(tf.function(run), x, kernels, biases)

    def dense(counts):
        def run(x, kernels, biases):
            return dense_formula(x, counts, kernels, biases, swiglu)

        return value_and_gradients(run, x, kernels, biases)

    def equal(x, kernels, biases):
        y = equal_expert_ffn(tf.reshape(x, [4, 3, 3]), kernels, biases, by_silu, recompute)
        return tf.reshape(y, [12, -1])

    assert_close(sparse([3, 0, 6, 1]), dense([3, 0, 6, 1]))
    assert_close(value_and_gradients(equal, x, kernels, biases), dense([3, 3, 3, 3]))


def test_gradients_in_a_training_step(all_runners):
    """Forward and backward pass in one graph, weights in variables."""
    tf.random.set_seed(1)
    stacks, _ = random_stacks(4, [3, 6, 3])
    variables = [tf.Variable(stack) for stack in stacks]
    x = tf.random.normal([9, 3], dtype=tf.float64)
    counts = [4, 0, 3, 2]

    @tf.function
    def step(x, counts, recompute):
        with tf.GradientTape() as tape:
            kernels = [tf.convert_to_tensor(v) for v in variables]
            loss = tf.reduce_sum(tf.sin(expert_ffn(x, counts, kernels, recompute=recompute)))
        return tape.gradient(loss, variables)

    expected = value_and_gradients(
        lambda x, kernels, biases: dense_formula(x, counts, kernels, biases, tf.nn.relu),
        x,
        stacks,
        [],
    )[2:]
    for recompute in (False, True):
        assert_close(step(x, tf.constant(counts), recompute), expected)


def test_one_expert_is_the_dense_layer(all_runners):
    (first, second), _ = random_stacks(1, [3, 5, 3])
    x = tf.random.normal([4, 3], dtype=tf.float64)
    np.testing.assert_allclose(
        expert_ffn(x, tf.constant([4]), [first, second]), tf.nn.relu(x @ first[0]) @ second[0]
    )


@pytest.mark.parametrize("recompute", [False, True])
def test_no_rows(all_runners, recompute):
    kernels, biases = random_stacks(3, [3, 5, 2])
    y, dx, *dstacks = value_and_gradients(
        lambda x, kernels, biases: expert_ffn(
            x, tf.zeros([3], tf.int32), kernels, biases, recompute=recompute
        ),
        tf.zeros([0, 3], tf.float64),
        kernels,
        biases,
    )
    assert (y.shape, dx.shape) == ((0, 2), (0, 3))
    for gradient, stack in zip(dstacks, [*kernels, *biases], strict=True):
        np.testing.assert_array_equal(gradient, tf.zeros_like(stack))


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 0.1)])
def test_types(all_runners, dtype, tolerance):
    tf.random.set_seed(2)
    kernels, biases = random_stacks(3, [4, 8, 4], tf.float32)
    kernels = [0.3 * kernel for kernel in kernels]
    x = tf.random.normal([10, 4])

    def run(dtype):
        cast = [[tf.cast(stack, dtype) for stack in stacks] for stacks in (kernels, biases)]
        return value_and_gradients(
            lambda x, kernels, biases: expert_ffn(x, tf.constant([5, 2, 3]), kernels, biases),
            tf.cast(x, dtype),
            *cast,
        )

    for actual, expected in zip(run(dtype), run("float64"), strict=True):
        assert actual.dtype == tf.as_dtype(dtype)
        np.testing.assert_allclose(
            tf.cast(actual, "float64"), expected, atol=tolerance * np.abs(expected).max()
        )


def test_the_graph_of_many_experts_has_a_constant_size():
    def operations(num_experts):
        kernels, _ = random_stacks(num_experts, [2, 3, 2])
        counts = tf.ones([num_experts], tf.int32)

        def step(x):
            with tf.GradientTape() as tape:
                tape.watch(kernels)
                y = expert_ffn(x, counts, kernels)
            return tape.gradient(y, kernels)

        spec = tf.TensorSpec([None, 2], tf.float64)
        return len(tf.function(step).get_concrete_function(spec).graph.get_operations())

    many = expert_runners.UNROLLED_EXPERTS + 1
    assert operations(many) == operations(2 * many) < 500


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    "widths, use_bias, activation",
    [
        ([3, 5, 4], False, tf.nn.relu),
        ([3, 5, 6, 3], True, tf.nn.gelu),  # two hidden layers
        ([3, 4], True, tf.nn.relu),  # no hidden layer
    ],
)
def test_equal_expert_ffn_equals_expert_ffn(widths, use_bias, activation, recompute, compiled):
    tf.random.set_seed(0)
    kernels, biases = random_stacks(4, widths)
    biases = biases if use_bias else []
    x = tf.random.normal([4, 6, 3], dtype=tf.float64)

    def equal(x, kernels, biases):
        return equal_expert_ffn(x, kernels, biases or None, activation, recompute)

    def by_counts(x, kernels, biases):
        rows = tf.reshape(x, [24, 3])
        y = expert_ffn(rows, tf.fill([4], 6), kernels, biases or None, activation)
        return tf.reshape(y, [4, 6, -1])

    actual = value_and_gradients(tf.function(equal) if compiled else equal, x, kernels, biases)
    assert actual[0].shape == (4, 6, widths[-1])
    assert_close(actual, value_and_gradients(by_counts, x, kernels, biases))


@pytest.mark.parametrize("recompute", [False, True])
def test_equal_expert_ffn_without_rows(recompute):
    kernels, biases = random_stacks(3, [3, 5, 2])
    y, dx, *dstacks = value_and_gradients(
        lambda x, kernels, biases: equal_expert_ffn(x, kernels, biases, recompute=recompute),
        tf.zeros([3, 0, 3], tf.float64),
        kernels,
        biases,
    )
    assert (y.shape, dx.shape) == ((3, 0, 2), (3, 0, 3))
    for gradient, stack in zip(dstacks, [*kernels, *biases], strict=True):
        np.testing.assert_array_equal(gradient, tf.zeros_like(stack))


def test_no_experts():
    """A device without experts returns 0 in every row, and gradients of the stacks' shapes."""
    x, kernel = tf.ones([3, 4]), tf.zeros([0, 4, 2])
    with tf.GradientTape() as tape:
        tape.watch([x, kernel])
        y = grouped_matmul(x, tf.zeros([0], tf.int32), kernel)
    np.testing.assert_array_equal(y, tf.zeros([3, 2]))
    dx, dkernel = tape.gradient(y, [x, kernel])
    np.testing.assert_array_equal(dx, tf.zeros([3, 4]))
    assert dkernel.shape == kernel.shape


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "counts", [[3, 0, 6, 1, 0], [0, 0, 0, 0, 0], [12, 0, 0, 0, 0], [0, 0, 0, 0, 12]]
)
def test_static_ffn_equals_the_dense_formula(counts, jit_compile, recompute):
    tf.random.set_seed(0)
    kernels, biases = random_stacks(5, [3, 5, 6, 3])
    x = tf.random.normal([12, 3], dtype=tf.float64)

    @tf.function(jit_compile=jit_compile, autograph=False)
    def static(x, kernels, biases):
        return static_expert_ffn(x, tf.constant(counts), kernels, biases, tf.nn.gelu, recompute)

    assert_close(
        value_and_gradients(static, x, kernels, biases),
        value_and_gradients(
            lambda x, kernels, biases: dense_formula(
                x, np.array(counts), kernels, biases, tf.nn.gelu
            ),
            x,
            kernels,
            biases,
        ),
    )


def test_static_grouped_matmul(all_runners):
    x = tf.random.normal([6, 3], dtype=tf.float64)
    kernel, counts = tf.random.normal([4, 3, 2], dtype=tf.float64), tf.constant([2, 0, 1, 2])
    static = grouped_matmul(x, counts, kernel, is_static=True)
    np.testing.assert_allclose(static, grouped_matmul(x, counts, kernel), rtol=1e-12)
