"""The distinct pairs of a token and an expert in the assignments of several gates.

Axes: T tokens, E experts, A assignments of a gate, U distinct pairs, M inputs, D model.
"""

from typing import NamedTuple

import tensorflow as tf

from tfmoe.distribute.exchange import Local
from tfmoe.ops.assignments import Assignments, StaticAssignments
from tfmoe.ops.segments import segment_ids
from tfmoe.ops.sorting import inverse_permutation, kept_first, sum_by_id


class SharedPairs(NamedTuple):
    """The distinct pairs of several assignments.

    Attributes:
        pairs: `Assignments` of the tokens of all inputs, `[M·T]`, to all experts; of weight 1,
            sorted by expert.
        indices: for each gate `[sum(counts)]` int32, the pair of each assignment that is not
            dropped; `[A]` for static assignments, any pair for those that are dropped.
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
        kind = type(assignments)
        chosen = kind(index, assignments.weights, assignments.counts, tf.shape(rows)[0])
        # Not all rows are of experts with equal counts on this device.
        assignments = assignments._replace(rows_per_expert=None)
        rows = chosen.dispatch(rows)
        if assignments.is_static:
            is_kept = tf.expand_dims(assignments.is_kept(), 1)
            rows = tf.where(is_kept, rows, tf.zeros([], rows.dtype))
        return Local(assignments).combine(rows)


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
    if assignments[0].is_static:
        return share_static(assignments, experts, num_experts, expert_inputs)
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


def share_static(assignments, experts, num_experts, expert_inputs=None):
    """`share` for static assignments, whose pairs are static too."""
    num_tokens = assignments[0].num_tokens
    num_keys = num_experts * num_tokens
    keys = []
    for each, ids in zip(assignments, experts, strict=True):
        expert = tf.gather(ids, tf.minimum(each.all_experts(), len(ids) - 1))
        keys.append(tf.where(each.is_kept(), expert * num_tokens + each.tokens, num_keys))
    selected = tf.concat(keys, axis=0)
    order = tf.argsort(selected, stable=True)
    in_order = tf.gather(selected, order)
    is_new = tf.concat([[True], in_order[1:] != in_order[:-1]], axis=0)
    is_pair = is_new & (in_order < num_keys)
    # A gate selects a pair once, and there are no more pairs than keys.
    num_pairs = tf.minimum(tf.size(selected), num_keys)
    pairs = tf.gather(in_order, kept_first(is_pair, is_static=True)[:num_pairs])
    pairs = tf.where(tf.range(num_pairs) < count(is_pair), pairs, num_keys)
    expert = pairs // num_tokens
    tokens, num_inputs = pairs % num_tokens, 1
    if expert_inputs is not None:
        num_inputs = max(expert_inputs) + 1
        tokens += tf.gather(expert_inputs, tf.minimum(expert, num_experts - 1)) * num_tokens
    by_key = tf.cumsum(tf.cast(is_pair, tf.int32)) - 1
    index = tf.gather(tf.maximum(by_key, 0), inverse_permutation(order, is_static=True))
    sizes = [tf.size(each) for each in keys]
    return SharedPairs(
        StaticAssignments(
            tokens=tokens,
            weights=tf.ones(tf.shape(tokens), assignments[0].weights.dtype),
            counts=sum_by_id(tf.ones_like(expert), expert, num_experts, is_static=True),
            num_tokens=num_inputs * num_tokens,
        ),
        tf.split(index, sizes),
    )


def count(is_true):
    """The number of true values, int32 scalar."""
    return tf.reduce_sum(tf.cast(is_true, tf.int32))
