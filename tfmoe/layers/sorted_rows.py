"""Runs rows that are already sorted by expert through their experts.

Axes: A rows, E experts, D model.
"""

import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.ops.assignments import Assignments


def run_sorted(experts, rows, counts, rows_per_expert=None, training=False, is_static=False):
    """Computes each row with its expert, wherever the expert is.

    Under a `MixedStrategy` the rows are sent to the replicas of their experts, and the results are
    sent back. All replicas must call it at the same point of the program.

    Args:
        experts: `tfmoe.layers.routed_experts.RoutedExperts`.
        rows: `[A, D]`, sorted by expert.
        counts: `[E]` int32, the rows of each expert; their sum is A.
        rows_per_expert: `[]` int32, the rows of each expert if all have the same number; else
            `None`.
        training: whether the step trains.
        is_static: as for `Experts.compute`.

    Returns:
        `[A, D]`, in the order of `rows`.
    """
    if not collectives.shards_experts():
        return experts.compute(rows, counts, rows_per_expert, training, is_static)
    if rows_per_expert is not None:
        rows_per_expert = collectives.all_reduce_sum(rows_per_expert)
    num_rows = tf.shape(rows)[0]
    index = tf.range(num_rows)
    weights = tf.ones([num_rows], rows.dtype)
    # Each row is a token with one assignment, of weight 1.
    assignments = Assignments(index, weights, counts, num_rows, index[:, None], rows_per_expert)
    return experts(rows, assignments, training=training)
