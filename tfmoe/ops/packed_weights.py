"""Weights stored in fewer bytes than they are computed with: int8 with scales, or bfloat16.

Axes: E experts, A rows, I inputs, N outputs.

Unpacking a stack of experts reads and writes the matrices of all experts at every call, although
few rows reach few of them. So `expert_ffn` finds out which of its kernels are unpacked, and unpacks
the matrices of one expert at a time, of experts that have rows.
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

LARGEST = 127  # of symmetric int8: -128 is not used


class PackedWeight(NamedTuple):
    """A weight `values * scale`.

    Attributes:
        values: tensor or variable, int8 or floating point.
        scale: float32, to be broadcast to `values`; `None` for 1.
    """

    values: Any
    scale: Any = None

    def unpack(self, dtype: tf.DType | str) -> tf.Tensor:
        """The weight as a tensor of a floating point type."""
        values = tf.cast(self.values, dtype)
        return values if self.scale is None else values * tf.cast(self.scale, dtype)


def quantize(weight: tf.Tensor, axis: int = -2) -> PackedWeight:
    """Rounds a weight to int8, symmetrically: `scale = max|weight| / 127` along an axis.

    Args:
        weight: floating point, finite.
        axis: the axis over which one scale holds. -2, that of the inputs of `[..., I, N]`, gives a
            scale for each output, and of `[E, I, N]` for each expert and output; -1 a scale for
            each row of a table.

    Returns:
        int8 values of the same shape, and float32 scales with 1 in place of the axis. No element
        changes by more than half a scale. A row of zeros has the scale 0.

    Raises:
        ValueError: if an element is infinite or NaN.
    """
    weight = tf.cast(weight, tf.float32)
    if not tf.reduce_all(tf.math.is_finite(weight)):
        raise ValueError("weights must be finite for int8: one has infinite elements or NaN")
    scale = tf.reduce_max(tf.abs(weight), axis=axis, keepdims=True) / LARGEST
    values = tf.clip_by_value(tf.round(tf.math.divide_no_nan(weight, scale)), -LARGEST, LARGEST)
    return PackedWeight(tf.cast(values, tf.int8), scale)


def multiply(rows: tf.Tensor, kernel: tf.Tensor | PackedWeight) -> tf.Tensor:
    """`rows · kernel`, with a scale for each output that is applied to the product.

    Args:
        rows: `[..., I]` floating point.
        kernel: `[..., I, N]`, or a `PackedWeight` of it whose scale is `[..., 1, N]`.
    """
    if not isinstance(kernel, PackedWeight):
        return tf.matmul(rows, kernel)
    product = tf.matmul(rows, tf.cast(kernel.values, rows.dtype))
    return product if kernel.scale is None else product * tf.cast(kernel.scale, rows.dtype)


class _State(threading.local):
    sources: Mapping = {}


_state = _State()


@contextlib.contextmanager
def unpacked_from(sources: Mapping[tf.Tensor, PackedWeight]) -> Iterator[None]:
    """Within this context `packed_source` knows from what tensors were unpacked.

    Args:
        sources: `{tensor.ref(): PackedWeight}`.
    """
    before, _state.sources = _state.sources, dict(sources)
    try:
        yield
    finally:
        _state.sources = before


def packed_source(tensor: tf.Tensor) -> PackedWeight | None:
    """The `PackedWeight` from which a tensor was unpacked, within `unpacked_from`, else `None`."""
    return _state.sources.get(tensor.ref()) if _state.sources else None
