"""Divides assignments of all steps of a batch into the assignments of each step.

Axes: T tokens, A assignments, E experts, B sequences, S steps, M assignments of the step with the
most.
"""

from typing import NamedTuple

import tensorflow as tf

from tfmoe.ops.assignments import Assignments


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

    def of_rows(self, num_rows) -> Assignments:
        """For one step: its `Assignments`, whose tokens are the B = `num_rows` sequences."""
        return Assignments(self.rows, self.weights, self.counts, num_rows)


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
