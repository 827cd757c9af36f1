"""The distinct pairs of a token and an expert in the assignments of several gates.

Axes: T tokens, E experts, A assignments of a gate, U distinct pairs, M inputs, D model.
"""

from typing import NamedTuple

import tensorflow as tf

from tfmoe.distribute.exchange import Local
from tfmoe.ops.assignments import Assignments
from tfmoe.ops.segments import segment_ids


class SharedPairs(NamedTuple):
    """The distinct pairs of several assignments.

    Attributes:
        pairs: `Assignments` of the tokens of all inputs, `[M·T]`, to all experts; of weight 1,
            sorted by expert.
        indices: for each gate `[sum(counts)]` int32, the pair of each assignment that is not
            dropped.
    """

    pairs: Assignments
    indices: list

    def combine(self, gate, assignments, rows):
        """Computes the weighted sum of the rows of each token for one gate, `[T, D]`.

        Args:
            gate: the gate's index.
            assignments: its assignments.
            rows: `[U, D]`, the result of each pair.
        """
        index = self.indices[gate]
        chosen = Assignments(index, assignments.weights, assignments.counts, tf.shape(rows)[0])
        # Not all rows are of experts with equal counts on this device.
        assignments = assignments._replace(rows_per_expert=None)
        return Local(assignments).combine(chosen.dispatch(rows))


def share(assignments, experts, num_experts, expert_inputs=None):
    """Finds the distinct pairs of a token and an expert in the assignments of several gates.

    Args:
        assignments: list of `Assignments`, of T tokens each.
        experts: for each gate, the ids of its experts among all, ascending integers.
        num_experts: E.
        expert_inputs: for each expert the index of its input, if there are several: its tokens are
            those from `T` times this index on. `None` for one input.

    Returns:
        `SharedPairs`.
    """
    num_tokens = assignments[0].num_tokens
    # A pair has the key `expert · T + token`: keys in order are sorted by expert.
    keys = [
        tf.gather(ids, each.experts()) * num_tokens + each.tokens[: each.num_kept()]
        for each, ids in zip(assignments, experts, strict=True)
    ]
    selected = tf.concat(keys, axis=0)
    times = tf.math.unsorted_segment_sum(tf.ones_like(selected), selected, num_experts * num_tokens)
    is_pair = tf.cast(times > 0, tf.int32)
    counts = tf.reduce_sum(tf.reshape(is_pair, [num_experts, num_tokens]), axis=1)
    expert = segment_ids(counts)
    tokens = tf.cast(tf.where(times > 0)[:, 0], tf.int32) - expert * num_tokens
    num_inputs = 1
    if expert_inputs is not None:
        num_inputs = max(expert_inputs) + 1
        tokens += tf.gather(expert_inputs, expert) * num_tokens
    weights = tf.ones(tf.shape(tokens), assignments[0].weights.dtype)
    pairs = Assignments(tokens, weights, counts, num_inputs * num_tokens)
    index = tf.cumsum(is_pair) - 1
    return SharedPairs(pairs, [tf.gather(index, each) for each in keys])
