"""Counts the multiply-adds of the matrix products and convolutions in a graph."""

import math
from collections.abc import Callable

import tensorflow as tf


def multiply_adds(graph: tf.Graph) -> int:
    """Counts the multiply-adds of all matrix products and convolutions of a graph.

    Args:
        graph: a graph in which all shapes are known.

    Raises:
        NotImplementedError: the graph calls functions, such as the body of a loop, whose number of
            calls is not known.
    """
    total = 0
    for op in graph.get_operations():
        if any(attribute.type == "func" for attribute in op.op_def.attr):
            raise NotImplementedError(f"multiply-adds of a loop or a function ({op.type})")
        if op.type in COUNTS:
            shapes = [[int(axis) for axis in tensor.shape] for tensor in (*op.inputs, *op.outputs)]
            total += COUNTS[op.type](op, *shapes)
    return total


def of_product(op, x, y, output):
    """Of `[..., M, K] · [..., K, N]`: M·N·K for each of the leading axes."""
    is_transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
    return math.prod(output) * (x[-2] if is_transposed else x[-1])


def of_convolution(op, x, kernel, output):
    """For each output, the kernel's positions and input channels."""
    return math.prod(output) * math.prod(kernel[:-1])


def of_depthwise_convolution(op, x, kernel, output):
    """For each output, the kernel's positions."""
    return math.prod(output) * math.prod(kernel[:-2])


def of_transposed_convolution(op, sizes, kernel, x, output):
    """For each input, the kernel's positions and output channels."""
    return math.prod(x) * math.prod(kernel[:-1])


def of_einsum(op, *shapes):
    """The product of the lengths of all axes."""
    equation = op.get_attr("equation").decode()
    lengths = {}
    for labels, shape in zip(equation.split("->")[0].split(","), shapes, strict=False):
        before, dots, after = labels.partition("...")
        lengths.update(zip(before, shape, strict=False))
        lengths.update(zip(reversed(after), reversed(shape), strict=False))
        if dots:
            others = shape[len(before) : len(shape) - len(after)]
            lengths["..."] = max(math.prod(others), lengths.get("...", 1))
    return math.prod(lengths.values())


COUNTS: dict[str, Callable[..., int]] = {
    "MatMul": of_product,
    "BatchMatMulV2": of_product,
    "BatchMatMulV3": of_product,
    "Conv2D": of_convolution,
    "Conv3D": of_convolution,
    "DepthwiseConv2dNative": of_depthwise_convolution,
    "Conv2DBackpropInput": of_transposed_convolution,
    "Conv3DBackpropInputV2": of_transposed_convolution,
    "Einsum": of_einsum,
}
