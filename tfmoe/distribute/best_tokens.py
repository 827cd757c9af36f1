"""Selects the best tokens for each expert, from the global batch or from each group of rows.

Axes: T tokens, E experts of one gate, C rows that an expert takes, G groups, N rows of the largest
group, B sequences, R replicas, E_r maximum number of experts on a replica, Q candidates.
"""

import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.distribute.shards import shard_bounds
from tfmoe.ops.assignments import Assignments
from tfmoe.ops.routing import top_rows_of_experts


def best_tokens(probability, k, groups=None, extra=0):
    """Assigns to every expert its `C = ⌈k·T/E⌉` most probable tokens (eq 18).

    Args:
        probability: `[T, E]` floating point, for this replica's tokens; or any other scores.
        k: mean number of experts per token, at most E.
        groups: `None` to select from the global batch; or the `tfmoe.gating.Groups` of the rows,
            to select from each group separately.
        extra: an integer that is added to C, which is at most T.

    Returns:
        `Assignments` with the probabilities as weights. In a tie the earlier token is selected,
        from an earlier replica first. (Identical tokens can have probabilities that differ in the
        last bit: the rounding of a matrix product depends on the position of the row.)

    Raises:
        ValueError: several replicas have rows of the same group.
    """
    if groups is not None:
        if collectives.num_replicas() > 1 and not collectives.shards_experts():
            raise ValueError(
                "the inner level of a hierarchical mixture cannot select the best tokens of a "
                "global batch under this strategy, whose replicas hold all groups: use "
                "tfmoe.distribute.MixedStrategy"
            )
        return _best_of_groups(probability, k, groups, extra)
    if collectives.num_replicas() > 1:
        return _best_of_global_batch(probability, k, extra)
    return _best_of_equal_groups(probability[None], k, extra)


def lowest_taken(probability, k, groups=None, extra=0):
    """The lowest probability among the best tokens of each expert, the C-th highest of the global
    batch: the same on all replicas.

    Args:
        probability, k, groups, extra: as for `best_tokens`.

    Returns:
        `[E]`, or `[G, E]` with groups; the maximum of the dtype for an expert without a token. It
        has no gradient.
    """
    taken = best_tokens(tf.stop_gradient(probability), k, groups, extra)
    num_experts = taken.counts.shape[0]
    lowest = tf.math.unsorted_segment_min(taken.weights, taken.experts(), num_experts)
    if groups is None:
        return tf.reduce_min(collectives.all_gather(lowest), axis=0)
    return tf.reshape(lowest, [-1, probability.shape[1]])


def best_tokens_of_sequences(probability, k, sequences=None):
    """Assigns to every expert its `⌈k·S/E⌉` most probable tokens of each sequence of S tokens.

    Args:
        probability: `[T, E]` floating point.
        k: as for `best_tokens`.
        sequences: the `tfmoe.gating.Groups` of the tokens by sequence; `None` if all tokens of this
            replica are one sequence.

    Returns:
        `Assignments` to E experts, with the probabilities as weights.
    """
    sizes = tf.shape(probability)[:1] if sequences is None else sequences.sizes
    best, rows, counts = _best_of_unequal_groups(probability, k, sizes)
    by_expert = [tf.transpose(values, [1, 0, 2]) for values in (best, rows)]  # [E, B, C]
    mask = tf.broadcast_to(
        tf.sequence_mask(counts, tf.shape(best)[2])[None], tf.shape(by_expert[0])
    )
    weights, tokens = (tf.boolean_mask(values, mask) for values in by_expert)
    return Assignments(
        tokens=tokens,
        weights=weights,
        counts=tf.fill([probability.shape[1]], tf.reduce_sum(counts)),
        num_tokens=tf.shape(probability)[0],
    )


def rows_taken(k, num_rows, num_experts, extra=0):
    """`C = ⌈k·N/E⌉ + extra`, at most N; int32 with the shape of `num_rows`, N."""
    if isinstance(k, int):
        taken = -(-k * num_rows // num_experts)
    else:
        taken = tf.cast(tf.math.ceil(k * tf.cast(num_rows, tf.float64) / num_experts), tf.int32)
    return tf.minimum(taken + extra, num_rows)


def _best_of_equal_groups(probability, k, extra=0):
    """The best rows of G groups with N rows each; `probability` is `[G, N, E]`."""
    num_groups, num_experts = probability.shape[0], probability.shape[2]
    num_rows = tf.shape(probability)[1]
    num_taken = rows_taken(k, num_rows, num_experts, extra)
    best, rows = top_rows_of_experts(probability, num_taken)  # [G, E, C]
    first = tf.range(num_groups)[:, None, None] * num_rows
    return Assignments(
        tokens=tf.reshape(rows + first, [-1]),
        weights=tf.reshape(best, [-1]),
        counts=tf.fill([num_groups * num_experts], num_taken),
        num_tokens=num_groups * num_rows,
        rows_per_expert=num_taken,
    )


def _best_of_groups(probability, k, groups, extra=0):
    num_experts = probability.shape[1]
    if groups.size is not None:
        shape = [groups.sizes.shape[0], groups.size, num_experts]
        return _best_of_equal_groups(tf.reshape(probability, shape), k, extra)
    best, rows, num_taken = _best_of_unequal_groups(probability, k, groups.sizes, extra)
    counts = tf.repeat(num_taken, num_experts)
    mask = tf.reshape(tf.sequence_mask(counts, tf.shape(best)[2]), tf.shape(best))
    return Assignments(
        tokens=tf.boolean_mask(rows, mask),
        weights=tf.boolean_mask(best, mask),
        counts=tf.ensure_shape(counts, [groups.sizes.shape[0] * num_experts]),
        num_tokens=tf.shape(probability)[0],
    )


def _best_of_unequal_groups(probability, k, sizes, extra=0):
    """The best rows of groups of `[G]` sizes.

    Returns:
        The best probabilities and their rows `[G, E, C]`, for the largest C, in descending order;
        and C of each group, `[G]`.
    """
    num_rows = tf.reduce_max(tf.concat([sizes, [0]], axis=0))
    within = tf.range(num_rows)[None]
    first = tf.cumsum(sizes, exclusive=True)[:, None]
    is_row = within < sizes[:, None]  # [G, N]
    padded = tf.gather(tf.pad(probability, [[0, 1], [0, 0]]), tf.where(is_row, first + within, 0))
    padded = tf.where(is_row[:, :, None], padded, probability.dtype.min)
    num_taken = rows_taken(k, sizes, probability.shape[1], extra)
    max_taken = tf.reduce_max(tf.concat([num_taken, [0]], axis=0))
    best, rows = top_rows_of_experts(padded, max_taken)
    return best, rows + first[:, :, None], num_taken


def _best_of_global_batch(probability, k, extra=0):
    num_tokens, num_experts = tf.shape(probability)[0], probability.shape[1]
    replica_sizes = collectives.all_gather(num_tokens)  # [R]
    num_taken = rows_taken(k, tf.reduce_sum(replica_sizes), num_experts, extra)
    num_candidates = tf.minimum(num_taken, tf.reduce_max(replica_sizes))
    num_local = tf.minimum(num_candidates, num_tokens)
    best, tokens = top_rows_of_experts(probability[None], num_local)
    best, tokens = best[0], tokens[0]  # [E, ≤ Q]
    padding = [[0, 0], [0, num_candidates - num_local]]
    lowest = probability.dtype.min
    candidates = tf.pad(tf.stop_gradient(best), padding, constant_values=lowest)
    counts = count_accepted(candidates, num_taken)
    mask = tf.sequence_mask(counts, num_local)
    return Assignments(
        tokens=tf.boolean_mask(tokens, mask),
        weights=tf.boolean_mask(best, mask),
        counts=tf.ensure_shape(counts, [num_experts]),
        num_tokens=num_tokens,
        rows_per_expert=num_taken if collectives.shards_experts() else None,
    )


def count_accepted(best, num_taken):
    """Counts the candidates of this replica that are among the best of all replicas.

    Each replica sends its candidates to the devices of the experts, which compare the candidates of
    all replicas and send back the counts, `[E]` integers.

    Args:
        best: `[E, Q]` floating point, the best values for each expert on this replica, descending;
            Q is the same on all replicas.
        num_taken: the number of values that an expert takes from all replicas, at most `R·Q`; int32
            scalar.

    Returns:
        `[E]` int32. In a tie the values of an earlier replica are taken first.
    """
    replicas, num_experts = collectives.num_replicas(), best.shape[0]
    bounds = shard_bounds(num_experts, replicas)
    shard_size = bounds[0][1] - bounds[0][0]  # E_r
    num_candidates = tf.shape(best)[1]
    best = tf.pad(best, [[0, shard_size * replicas - num_experts], [0, 0]])
    sent = tf.reshape(best, [replicas, shard_size, num_candidates])
    received = tf.transpose(collectives.all_to_all(sent), [1, 0, 2])
    by_expert = tf.reshape(received, [shard_size, replicas * num_candidates])
    indices = tf.math.top_k(by_expert, num_taken).indices
    sources = tf.one_hot(indices // tf.maximum(num_candidates, 1), replicas, dtype=tf.int32)
    counts = tf.transpose(tf.reduce_sum(sources, axis=1))  # [R, E_r]
    return tf.reshape(collectives.all_to_all(counts), [-1])[:num_experts]
