"""Divides assignments of all steps of a batch into the assignments of each step.

Axes: T tokens, A assignments, E experts, K experts per token, B sequences, S steps, M assignments
of the step with the most.
"""

from typing import NamedTuple

import tensorflow as tf

from tfmoe.ops.assignments import Assignments, assign_tokens


class StepAssignments(NamedTuple):
    """Assignments of the sequences in every step, or in one step without the axis S.

    Attributes:
        rows: `[S, M]` int32, the sequence of each assignment; 0 after the last assignment.
        weights: `[S, M]` float; 0 after the last assignment.
        counts: `[S, E]` int32, the assignments of each expert.
    """

    rows: tf.Tensor
    weights: tf.Tensor
    counts: tf.Tensor

    def of_rows(self, num_rows: tf.Tensor, num_experts: int) -> Assignments:
        """For one step: its `Assignments`, whose tokens are the B = `num_rows` sequences."""
        return Assignments(self.rows, self.weights, self.counts, num_rows)


class StaticSteps(NamedTuple):
    """Static assignments of the sequences in every step, or in one step without the axis S.

    Attributes:
        experts: `[S, B, K]` int32, the experts of each sequence; E for a dropped assignment.
        weights: `[S, B, K]` float.
    """

    experts: tf.Tensor
    weights: tf.Tensor

    def of_rows(self, num_rows: tf.Tensor, num_experts: int) -> Assignments:
        """For one step: its static `Assignments`, whose tokens are the B sequences."""
        return assign_tokens(self.experts, self.weights, num_experts, is_static=True)


def split_static(assignments: Assignments, num_steps: tf.Tensor) -> StaticSteps:
    """`split_by_step` for static assignments.

    Args:
        assignments: assigns all T = B·S positions to E experts, sequence by sequence.
        num_steps: S, int32 scalar.
    """
    num_experts = assignments.counts.shape[0]
    experts = assignments.all_experts()
    if assignments.slots is not None:
        experts, weights = (
            tf.gather(values, assignments.slots) for values in (experts, assignments.weights)
        )
    else:  # each position has E assignments, of which most are dropped
        cells = tf.stack([assignments.tokens, experts], axis=1)
        shape = [assignments.num_tokens, num_experts + 1]
        taken = tf.scatter_nd(cells, tf.ones_like(experts), shape)[:, :-1] > 0
        weights = tf.scatter_nd(cells, assignments.weights, shape)[:, :-1]
        experts = tf.where(taken, tf.range(num_experts)[None], num_experts)
    shape = [-1, num_steps, experts.shape[1]]
    return StaticSteps(*(tf.transpose(tf.reshape(x, shape), [1, 0, 2]) for x in (experts, weights)))


def split_by_step(
    assignments: Assignments, rows: tf.Tensor, steps: tf.Tensor, num_steps: tf.Tensor
) -> StepAssignments:
    """Divides assignments by the steps of their tokens. Dropped assignments are removed.

    Args:
        assignments: assigns T tokens to E experts.
        rows: `[T]` int32, the sequence of each token.
        steps: `[T]` int32, the step of each token.
        num_steps: S, int32 scalar.

    Returns:
        `StepAssignments`; within a step, assignments are sorted by expert.
    """
    kept, num_experts = assignments.num_kept(), assignments.counts.shape[0]
    tokens = assignments.tokens[:kept]
    cells = tf.gather(steps, tokens) * num_experts + assignments.experts()
    order = tf.argsort(cells, stable=True)
    num_cells = num_steps * num_experts
    counts = tf.math.bincount(cells, minlength=num_cells, maxlength=num_cells)
    counts = tf.reshape(counts, [num_steps, num_experts])
    per_step = tf.reduce_sum(counts, axis=1)
    step = tf.gather(cells, order) // num_experts
    column = tf.range(kept) - tf.gather(tf.cumsum(per_step, exclusive=True), step)
    indices = tf.stack([step, column], axis=1)
    shape = tf.stack([num_steps, tf.maximum(tf.reduce_max(per_step), 0)])

    def by_step(values):
        return tf.scatter_nd(indices, tf.gather(values, order), shape)

    return StepAssignments(
        by_step(tf.gather(rows, tokens)), by_step(assignments.weights[:kept]), counts
    )
