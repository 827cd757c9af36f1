"""Dropout of the hidden activations of experts.

Axes: A rows (assignments), E experts, C rows of each expert, H hidden.
"""

from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf


class HiddenDropout(NamedTuple):
    """Which hidden activations are dropped. Kept ones are divided by `1 - rate`.

    Attributes:
        rate: the probability that an activation is dropped, `0 <= rate < 1`.
        keeps: one `[A, H]` (or `[E, C, H]`) bool for each hidden layer, `False` for an activation
            that is dropped; empty for no dropout.
    """

    rate: float = 0.0
    keeps: Sequence = ()


NO_DROPOUT = HiddenDropout()


def draw_dropout(rate, rows_shape, widths, seed):
    """Draws what is dropped.

    Args:
        rate: as for `HiddenDropout`.
        rows_shape: the shape of the rows without their last axis: a list of integers or `[]` int32.
        widths: H of each hidden layer.
        seed: a `keras.random.SeedGenerator`.
    """
    keeps = []
    for width in widths:
        drawn = keras.random.uniform([*rows_shape, width], dtype="float32", seed=seed)
        keeps.append(drawn >= rate)
    return HiddenDropout(rate, keeps)


def drop(activations, keep, rate):
    """Applies dropout to activations: `activations / (1 - rate)` where `keep`, else 0."""
    return tf.where(keep, activations / (1 - rate), tf.zeros([], activations.dtype))
