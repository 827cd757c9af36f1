"""What a gate returns: assignments, and sums over its own tokens.

Axes: T tokens, E experts of one gate, K experts per token, A assignments, G groups.
"""

from typing import NamedTuple

import tensorflow as tf

from tfmoe.ops.assignments import Assignments
from tfmoe.ops.segments import segment_ids


class Routing(NamedTuple):
    """What a gate decides for tokens, and what it counts.

    Attributes:
        assignments: `tfmoe.ops.assignments.Assignments`.
        sums: `{name: tensor}`, each a sum over the gate's tokens, in one floating-point type of at
            least 32 bits. `[]` and `[E]` for a single gate, `[G]` and `[G, E]` for G gates at
            once. Every gate has `tokens`, `importance` (eq 6) and `load` (assignments that are not
            dropped). Several gates add `smooth_load` (eq 10) or `probability`.
    """

    assignments: Assignments
    sums: dict

    @property
    def importance(self):
        """`[E]`, eq 6, of this gate's tokens."""
        return self.sums["importance"]

    @property
    def load(self):
        """`[E]`, the tokens that each expert receives."""
        return self.sums["load"]


class Groups(NamedTuple):
    """Which rows belong to each group of a hierarchical mixture: rows are sorted by group.

    Attributes:
        sizes: `[G]` int32, the rows of each group.
        size: `[]` int32, the rows of each group where all have equally many, else `None`.
    """

    sizes: tf.Tensor
    size: tf.Tensor | None = None

    def of_rows(self):
        """`[T]` int32, the group of each row."""
        if self.size is None:
            return segment_ids(self.sizes)
        return tf.repeat(tf.range(self.sizes.shape[0]), self.size)

    def sum(self, rows):
        """`[T, ...]` to `[G, ...]`, the sum over the rows of each group."""
        return tf.math.unsorted_segment_sum(rows, self.of_rows(), tf.size(self.sizes))


def sums_of(assignments, num_experts, groups=None, **per_token):
    """The sums that every gate has, and others.

    Args:
        assignments: `Assignments`; to `G·E` experts for G gates at once.
        num_experts: E, a Python integer.
        groups: `None`, or the `Groups` of the tokens.
        **per_token: `[T]` or `[T, E]` tensors, to be summed over the tokens.

    Returns:
        `{name: tensor}`, see `Routing`.
    """
    dtype = sum_type(assignments.weights.dtype)
    importance = assignments.sum_by_expert(tf.cast(assignments.weights, dtype))
    by_expert = {"importance": importance, "load": tf.cast(assignments.counts, dtype)}
    per_token = {name: tf.cast(values, dtype) for name, values in per_token.items()}
    if groups is None:
        tokens = tf.cast(assignments.num_tokens, dtype)
        others = {name: tf.reduce_sum(values, axis=0) for name, values in per_token.items()}
        shape = [num_experts]
    else:
        tokens = tf.cast(groups.sizes, dtype)
        others = {name: groups.sum(values) for name, values in per_token.items()}
        shape = [groups.sizes.shape[0], num_experts]
    by_expert = {name: tf.reshape(values, shape) for name, values in by_expert.items()}
    return {"tokens": tokens, **by_expert, **others}


def sum_type(dtype):
    """The type of sums of values of a floating-point type: 16 bits cannot count to 1000."""
    return tf.float32 if tf.as_dtype(dtype).size < 4 else dtype


def numbered_through_groups(experts, num_experts, groups):
    """Expert ids of each row's own group, as ids of the experts of all groups.

    Args:
        experts: `[T, K]` int32; the id E drops an assignment.
        num_experts: E.
        groups: `None`, or the `Groups` of the rows.

    Returns:
        `[T, K]` int32, and the number of experts of all groups, whose id drops an assignment.
    """
    if groups is None:
        return experts, num_experts
    total = groups.sizes.shape[0] * num_experts
    through = groups.of_rows()[:, None] * num_experts + experts
    return tf.where(experts < num_experts, through, total), total
