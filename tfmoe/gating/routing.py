"""The result of a gate: assignments, and sums over its tokens.

Axes: T tokens, E experts of one gate, K experts per token, A assignments, G groups.
"""

from typing import NamedTuple

import tensorflow as tf

from tfmoe.ops.assignments import Assignments
from tfmoe.ops.segments import segment_ids


class Routing(NamedTuple):
    """The assignments that a gate makes for its tokens, and sums over these tokens.

    Attributes:
        assignments: `tfmoe.ops.assignments.Assignments`.
        sums: `{name: tensor}`, sums over the gate's tokens, in one floating-point dtype of at least
            32 bits: `[]` or `[E]` for a single gate, `[G]` or `[G, E]` for G gates at once. Every
            gate has `tokens`, `importance` (eq 6) and `load` (the count of assignments that are not
            dropped). Some gates add `smooth_load` (eq 10) or `probability`.
    """

    assignments: Assignments
    sums: dict

    @property
    def importance(self) -> tf.Tensor:
        """`[E]`, the sum of the gate values of each expert (eq 6)."""
        return self.sums["importance"]

    @property
    def load(self) -> tf.Tensor:
        """`[E]`, the number of tokens that each expert receives."""
        return self.sums["load"]


class Groups(NamedTuple):
    """The groups of rows: those of a hierarchical mixture, or sequences. Rows are sorted by group.

    Attributes:
        sizes: `[G]` int32, the number of rows in each group.
        size: `[]` int32, the number of rows in each group if all are equal, else `None`.
    """

    sizes: tf.Tensor
    size: tf.Tensor | None = None

    def of_rows(self) -> tf.Tensor:
        """The group of each row, `[T]` int32."""
        if self.size is None:
            return segment_ids(self.sizes)
        return tf.repeat(tf.range(tf.size(self.sizes)), self.size)

    def sum(self, rows: tf.Tensor) -> tf.Tensor:
        """Sums the rows of each group, `[T, ...]` to `[G, ...]`.

        Args:
            rows: `[T, ...]`.
        """
        return tf.math.unsorted_segment_sum(rows, self.of_rows(), tf.size(self.sizes))


def sums_of(assignments, num_experts, groups=None, **per_token):
    """Computes the sums that every gate has, and further ones.

    Args:
        assignments: `Assignments`; to `G·E` experts for G gates at once.
        num_experts: E, a Python integer.
        groups: `None`, or the `Groups` of the tokens.
        **per_token: `[T]` or `[T, E]` tensors, which are summed over the tokens.

    Returns:
        `{name: tensor}`, see `Routing`.
    """
    dtype = sum_dtype(assignments.weights.dtype)
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


def rows_of(values, groups):
    """The values of each row's group: `[G, ...]` to `[T, ...]`; without groups the values.

    Args:
        values: a tensor or a weight.
        groups: `None`, or the `Groups` of the rows.
    """
    values = tf.convert_to_tensor(values)
    return values if groups is None else tf.gather(values, groups.of_rows())


def sum_dtype(dtype):
    """The dtype for sums of values: at least 32 bits, since 16 bits cannot count to 1000."""
    return tf.float32 if tf.as_dtype(dtype).size < 4 else dtype


def global_expert_ids(experts, num_experts, groups):
    """Converts expert ids within the group of each row to ids among the experts of all groups.

    Args:
        experts: `[T, K]` int32; the id E drops an assignment.
        num_experts: E.
        groups: `None`, or the `Groups` of the rows.

    Returns:
        `[T, K]` int32 ids; and the total number of experts, the id that drops an assignment.
    """
    if groups is None:
        return experts, num_experts
    total = groups.sizes.shape[0] * num_experts
    ids = groups.of_rows()[:, None] * num_experts + experts
    return tf.where(experts < num_experts, ids, total), total
