"""The best tokens of each expert: of a global batch, or of each group of rows.

Axes: T tokens, E experts of one gate, C rows that an expert takes, G groups, N rows of the largest
group, R replicas, E_r experts of one replica (the most that any has), Q candidates.
"""

import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.distribute.shards import shard_bounds
from tfmoe.ops.assignments import Assignments
from tfmoe.ops.routing import top_rows_of_experts


def best_tokens(probability, k, groups=None):
    """Every expert takes its `C = ⌈k·T/E⌉` best tokens (eq 18).

    Args:
        probability: `[T, E]` floating point, of this replica's tokens.
        k: mean number of experts per token.
        groups: `None`: then the best are those of the global batch. Or the
            `tfmoe.gating.Groups` of the rows, each of which is a batch of its own.

    Raises:
        ValueError: for groups of which several replicas have rows.

    Returns:
        `Assignments` with the probabilities as weights. Among equal values the earlier token is
        taken, of an earlier replica first. (Equal tokens can have probabilities that differ in the
        last bit, which matrix products round by the place of a row.)
    """
    if groups is not None:
        if collectives.num_replicas() > 1 and not collectives.shards_experts():
            raise ValueError(
                "the inner level of a hierarchical mixture cannot take the best tokens of a global "
                "batch under this strategy, whose replicas hold all groups: use "
                "tfmoe.distribute.MixedStrategy"
            )
        return _best_of_groups(probability, k, groups)
    if collectives.num_replicas() > 1:
        return _best_of_all_replicas(probability, k)
    return _equally_many(probability[None], k)


def _equally_many(probability, k):
    """The best of each group, `[G, N, E]`, of N rows each."""
    num_groups, num_experts = probability.shape[0], probability.shape[2]
    num_rows = tf.shape(probability)[1]
    num_taken = -(-k * num_rows // num_experts)
    best, rows = top_rows_of_experts(probability, num_taken)  # [G, E, C]
    first = tf.range(num_groups)[:, None, None] * num_rows
    return Assignments(
        tokens=tf.reshape(rows + first, [-1]),
        weights=tf.reshape(best, [-1]),
        counts=tf.fill([num_groups * num_experts], num_taken),
        num_tokens=num_groups * num_rows,
        rows_per_expert=num_taken,
    )


def _best_of_groups(probability, k, groups):
    num_experts = probability.shape[1]
    if groups.size is not None:
        shape = [groups.sizes.shape[0], groups.size, num_experts]
        return _equally_many(tf.reshape(probability, shape), k)
    num_rows = tf.reduce_max(tf.concat([groups.sizes, [0]], axis=0))
    within = tf.range(num_rows)[None]
    first = tf.cumsum(groups.sizes, exclusive=True)[:, None]
    is_row = within < groups.sizes[:, None]  # [G, N]
    padded = tf.gather(tf.pad(probability, [[0, 1], [0, 0]]), tf.where(is_row, first + within, 0))
    padded = tf.where(is_row[:, :, None], padded, -tf.ones([], probability.dtype))
    num_taken = -(-k * groups.sizes // num_experts)  # [G]
    most = tf.reduce_max(tf.concat([num_taken, [0]], axis=0))
    best, rows = top_rows_of_experts(padded, most)  # [G, E, C]
    counts = tf.repeat(num_taken, num_experts)
    mask = tf.reshape(tf.sequence_mask(counts, most), tf.shape(best))
    return Assignments(
        tokens=tf.boolean_mask(rows + first[:, :, None], mask),
        weights=tf.boolean_mask(best, mask),
        counts=tf.ensure_shape(counts, [groups.sizes.shape[0] * num_experts]),
        num_tokens=tf.shape(probability)[0],
    )


def _best_of_all_replicas(probability, k):
    num_tokens, num_experts = tf.shape(probability)[0], probability.shape[1]
    every = collectives.all_gather(num_tokens)  # [R]
    num_taken = -(-k * tf.reduce_sum(every) // num_experts)
    num_candidates = tf.minimum(num_taken, tf.reduce_max(every))
    own = tf.minimum(num_candidates, num_tokens)
    best, tokens = (each[0] for each in top_rows_of_experts(probability[None], own))  # [E, ≤ Q]
    candidates = tf.pad(
        tf.stop_gradient(best), [[0, 0], [0, num_candidates - own]], constant_values=-1
    )
    counts = taken_of_candidates(candidates, num_taken)
    mask = tf.sequence_mask(counts, own)
    return Assignments(
        tokens=tf.boolean_mask(tokens, mask),
        weights=tf.boolean_mask(best, mask),
        counts=tf.ensure_shape(counts, [num_experts]),
        num_tokens=num_tokens,
        rows_per_expert=num_taken if collectives.shards_experts() else None,
    )


def taken_of_candidates(best, num_taken):
    """How many of this replica's best candidates are among the best of all replicas.

    The device of each expert compares the candidates of all replicas, and answers with counts:
    values travel there, `[E]` integers travel back.

    Args:
        best: `[E, Q]` floating point, for each expert its best values on this replica, by falling
            value; Q is the same on all replicas.
        num_taken: how many an expert takes of all replicas together, at most `R·Q`; int32 scalar.

    Returns:
        `[E]` int32. Among equal values those of an earlier replica count first.
    """
    replicas, num_experts = collectives.num_replicas(), best.shape[0]
    bounds = shard_bounds(num_experts, replicas)
    here = bounds[0][1] - bounds[0][0]  # E_r
    num_candidates = tf.shape(best)[1]
    missing = here * replicas - num_experts
    best = tf.pad(best, [[0, missing], [0, 0]])
    arrived = collectives.all_to_all(tf.reshape(best, [replicas, here, num_candidates]))
    by_expert = tf.reshape(tf.transpose(arrived, [1, 0, 2]), [here, replicas * num_candidates])
    places = tf.math.top_k(by_expert, num_taken).indices
    of_replica = tf.one_hot(places // tf.maximum(num_candidates, 1), replicas, dtype=tf.int32)
    counts = tf.transpose(tf.reduce_sum(of_replica, axis=1))  # [R, E_r]
    return tf.reshape(collectives.all_to_all(counts), [-1])[:num_experts]
