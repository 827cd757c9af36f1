"""Weights in int8 or bfloat16, and experts that unpack them."""

import numpy as np
import pytest
import tensorflow as tf

from tfmoe.ops.expert_matmul import expert_ffn
from tfmoe.ops.expert_network import gated
from tfmoe.ops.packed_weights import (
    PackedWeight,
    multiply,
    packed_source,
    quantize,
    unpacked_from,
)


def test_a_scale_for_each_output():
    """The largest elements of the columns are 1, 4 and 0, so the scales 1/127, 4/127 and 0; -2 is
    -63.5 scales, which rounds to the even -64.
    """
    values, scale = quantize(tf.constant([[1.0, -2.0, 0.0], [-0.5, 4.0, 0.0]]))
    np.testing.assert_allclose(scale, [[1 / 127, 4 / 127, 0]], rtol=1e-6)
    assert values.dtype == tf.int8
    assert values.numpy().tolist() == [[127, -64, 0], [-64, 127, 0]]


def test_a_scale_for_each_row_of_a_table():
    values, scale = quantize(tf.constant([[1.0, -2.0], [0.5, 4.0]]), axis=-1)
    np.testing.assert_allclose(scale, [[2 / 127], [4 / 127]], rtol=1e-6)
    assert values.numpy().tolist() == [[64, -127], [16, 127]]


@pytest.mark.parametrize("element", [np.nan, np.inf])
def test_weights_that_are_not_finite(element):
    with pytest.raises(ValueError, match="weights must be finite for int8: one has infinite elem"):
        quantize(tf.constant([[1.0, element]]))


def test_no_element_changes_by_more_than_half_a_scale():
    weight = tf.random.stateless_normal([3, 40, 5], [1, 2])
    packed = quantize(weight)
    assert packed.scale.shape == (3, 1, 5)
    error = tf.abs(packed.unpack("float32") - weight)
    assert tf.reduce_all(error <= packed.scale / 2 * 1.001)


def test_products():
    kernel = quantize(tf.random.stateless_normal([4, 3], [1, 2]))
    rows = tf.random.stateless_normal([2, 4], [3, 4])
    np.testing.assert_allclose(
        multiply(rows, kernel), rows @ kernel.unpack("float32"), rtol=1e-5, atol=1e-6
    )
    half = PackedWeight(tf.cast(kernel.values, tf.bfloat16))
    np.testing.assert_allclose(multiply(rows, half), rows @ half.unpack("float32"), rtol=1e-5)


def packed_int8(stack):
    return quantize(stack)


def packed_bfloat16(stack):
    return PackedWeight(tf.cast(stack, tf.bfloat16))


@pytest.mark.parametrize("pack", [packed_int8, packed_bfloat16])
@pytest.mark.parametrize("counts", [[2, 0, 3], [0, 0, 0]])  # of 6 rows
def test_experts_that_unpack_their_kernels(pack, counts):
    """Gated experts with biases; the same kernels, unpacked all together, give the same."""
    shapes = [[3, 256, 256], [3, 128, 4]]
    packed = [pack(tf.random.stateless_normal(shape, [0, i])) for i, shape in enumerate(shapes)]
    biases = [tf.random.stateless_normal([3, shape[2]], [1, shape[2]]) for shape in shapes]
    x, counts = tf.random.stateless_normal([6, 256], [2, 2]), tf.constant(counts)
    options = {"biases": biases, "activation": gated(tf.nn.silu), "training": False}

    def compute(is_packed):
        kernels = [each.unpack("float32") for each in packed]
        pairs = zip(kernels, packed, strict=True) if is_packed else ()
        with unpacked_from({kernel.ref(): source for kernel, source in pairs}):
            assert [packed_source(k) for k in kernels] == (packed if is_packed else [None] * 2)
            return expert_ffn(x, counts, kernels, **options)

    y = compute(True)
    assert y.shape == (6, 4) and not y[tf.reduce_sum(counts) :].numpy().any()
    np.testing.assert_allclose(y, compute(False), rtol=1e-4, atol=1e-3)


def test_only_experts_with_rows_are_unpacked():
    """The graph multiplies with no unpacked stack: only its slices are cast."""
    packed = quantize(tf.random.stateless_normal([3, 256, 128], [0, 0]))

    @tf.function(input_signature=[tf.TensorSpec([None, 256]), tf.TensorSpec([3], tf.int32)])
    def ffn(x, counts):
        kernel = packed.unpack("float32")
        with unpacked_from({kernel.ref(): packed}):
            return expert_ffn(x, counts, [kernel], training=False)

    graph = ffn.get_concrete_function().graph
    (loop,) = (op for op in graph.get_operations() if "While" in op.type)
    stacks = {tensor.dtype for tensor in loop.inputs if tensor.shape == (3, 256, 128)}
    assert stacks == {tf.int8}
