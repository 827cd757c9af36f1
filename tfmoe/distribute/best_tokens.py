"""Selects the best tokens for each expert, from the global batch or from each group of rows.

Axes: T tokens, E experts of one gate, C rows that an expert takes, G groups, N rows of the largest
group, B sequences, R replicas, E_r maximum number of experts on a replica, Q candidates.
"""

import numpy as np
import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.distribute.shards import shard_bounds
from tfmoe.distribute.static_shapes import static_shapes
from tfmoe.ops.assignments import Assignments, StaticAssignments, drop
from tfmoe.ops.routing import top_rows_of_experts


def best_tokens(probability, k, groups=None, extra=0):
    """Assigns to every expert its `C = ⌈k·T/E⌉` most probable tokens (eq 18).

    Args:
        probability: `[T, E]` floating point, for this replica's tokens; or any other scores.
        k: mean number of experts per token, at most E.
        groups: `None` to select from the global batch; or the `tfmoe.gating.Groups` of the rows,
            to select from each group separately, and only rows that are routed. Shared groups have
            rows on all replicas.
        extra: an integer that is added to C, which is at most T.

    Returns:
        `Assignments` with the probabilities as weights. In a tie the earlier token is selected,
        from an earlier replica first. (Identical tokens can have probabilities that differ in the
        last bit: the rounding of a matrix product depends on the position of the row.)
    """
    if groups is not None and groups.sizes is not None:
        if groups.shared:
            return _best_of_shared_groups(probability, k, groups.sizes, extra)
        return _best_of_groups(probability, k, groups, extra)
    if collectives.num_replicas() > 1:
        return _best_of_global_batch(probability, k, extra)
    mask = None if groups is None else groups.mask[None]
    return _best_of_equal_groups(probability[None], k, extra, mask)


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
    lowest = tf.math.unsorted_segment_min(taken.weights, taken.all_experts(), num_experts + 1)
    lowest = lowest[:num_experts]
    is_grouped = groups is not None and groups.sizes is not None
    if not is_grouped or groups.shared:
        lowest = tf.reduce_min(collectives.all_gather(lowest), axis=0)
    return tf.reshape(lowest, [-1, probability.shape[1]]) if is_grouped else lowest


def best_tokens_of_sequences(probability, k, sequences=None, mask=None):
    """Assigns to every expert its `⌈k·S/E⌉` most probable tokens of each sequence of S tokens.

    Args:
        probability: `[T, E]` floating point.
        k: as for `best_tokens`.
        sequences: the `tfmoe.gating.Groups` of the tokens by sequence; `None` if all tokens of this
            replica are one sequence.
        mask: `[T]` bool, the rows that are tokens; `None` for all.

    Returns:
        `Assignments` to E experts, with the probabilities as weights.
    """
    num_experts = probability.shape[1]
    if static_shapes():
        rows = probability[None]
        if sequences is not None and sequences.size is not None:
            rows = tf.reshape(probability, [-1, sequences.size, num_experts])
        if mask is not None:
            mask = tf.reshape(mask, tf.shape(rows)[:2])
        best, rows, counts = _best_of_padded_groups(rows, k, mask)
    else:
        sizes = tf.shape(probability)[:1] if sequences is None else sequences.sizes
        best, rows, counts = _best_of_unequal_groups(probability, k, sizes)
    by_expert = [tf.transpose(values, [1, 0, 2]) for values in (best, rows)]  # [E, B, C]
    is_taken = tf.broadcast_to(
        tf.sequence_mask(counts, tf.shape(best)[2])[None], tf.shape(by_expert[0])
    )
    counts = tf.fill([num_experts], tf.reduce_sum(counts))
    return _taken(*by_expert, is_taken, counts, tf.shape(probability)[0])


def rows_taken(k, num_rows, num_experts, extra=0):
    """`C = ⌈k·N/E⌉ + extra`, at most N; int32 with the shape of `num_rows`, N."""
    if isinstance(k, int):
        taken = -(-k * num_rows // num_experts)
    else:
        taken = tf.cast(tf.math.ceil(k * tf.cast(num_rows, tf.float64) / num_experts), tf.int32)
    return tf.minimum(taken + extra, num_rows)


def _best_of_equal_groups(probability, k, extra=0, mask=None):
    """The best rows of G groups with N rows each.

    Args:
        probability: `[G, N, E]`.
        k, extra: as for `best_tokens`.
        mask: `[G, N]` bool, the rows that can be taken; `None` for all.
    """
    num_groups, num_experts = probability.shape[0], probability.shape[2]
    num_rows = tf.shape(probability)[1]
    best, rows, counts = _best_of_padded_groups(probability, k, mask, extra)
    num_taken = tf.shape(best)[2]
    if mask is not None:
        is_taken = tf.sequence_mask(tf.repeat(counts, num_experts), num_taken)
        by_expert = (tf.reshape(values, [-1, num_taken]) for values in (best, rows))
        counts = tf.repeat(counts, num_experts)
        return _taken(*by_expert, is_taken, counts, num_groups * num_rows)
    return (StaticAssignments if static_shapes() else Assignments)(
        tokens=tf.reshape(rows, [-1]),
        weights=tf.reshape(best, [-1]),
        counts=tf.fill([num_groups * num_experts], num_taken),
        num_tokens=num_groups * num_rows,
        rows_per_expert=num_taken,
    )


def _best_of_groups(probability, k, groups, extra=0):
    num_experts = probability.shape[1]
    num_groups = groups.sizes.shape[0]
    if groups.size is not None:
        shape = [num_groups, groups.size]
        mask = None if groups.mask is None else tf.reshape(groups.mask, shape)
        probability = tf.reshape(probability, [*shape, num_experts])
        return _best_of_equal_groups(probability, k, extra, mask)
    best, rows, num_taken = _best_of_unequal_groups(probability, k, groups.sizes, extra)
    counts = tf.ensure_shape(tf.repeat(num_taken, num_experts), [num_groups * num_experts])
    is_taken = tf.reshape(tf.sequence_mask(counts, tf.shape(best)[2]), tf.shape(best))
    return _taken(best, rows, is_taken, counts, tf.shape(probability)[0])


def _taken(weights, tokens, is_taken, counts, num_tokens):
    """The assignments of the rows that are taken.

    Args:
        weights, tokens: `[..., C]`, the best rows, sorted by expert: `[E, ..., C]` or `[G, E, C]`.
        is_taken: bool of the same shape.
        counts: `[E]` or `[G·E]` int32, the number that each expert takes.
        num_tokens: T.
    """
    if not static_shapes():
        tokens, weights = tf.boolean_mask(tokens, is_taken), tf.boolean_mask(weights, is_taken)
        return Assignments(tokens, weights, counts, num_tokens)
    num_experts = counts.shape[0]
    size = tf.size(tokens) // num_experts
    every = StaticAssignments(
        # Rows that are not taken can have any index.
        tokens=tf.minimum(tf.reshape(tokens, [-1]), num_tokens - 1),
        weights=tf.reshape(tf.where(is_taken, weights, 0), [-1]),
        counts=tf.fill([num_experts], size),
        num_tokens=num_tokens,
    )
    return drop(every, tf.reshape(is_taken, [-1]), max_rows=size)


def _best_of_unequal_groups(probability, k, sizes, extra=0):
    """The best rows of groups of `[G]` sizes.

    Returns:
        The best probabilities and their rows `[G, E, C]`, for the largest C, in descending order;
        and the number that are taken in each group, `[G]`.
    """
    padded, is_row, first = _padded_groups(probability, sizes)
    return _best_of_padded_groups(padded, k, is_row, extra, first)


def _padded_groups(probability, sizes):
    """Pads the rows of groups of `[G]` sizes: `[T, E]` to `[G, N, E]`. Also returns which of them
    are rows, `[G, N]` bool, and the first row of each group, `[G, 1]`.
    """
    num_rows = tf.shape(probability)[0]
    if not static_shapes():
        num_rows = tf.reduce_max(tf.concat([sizes, [0]], axis=0))
    within = tf.range(num_rows)[None]
    first = tf.cumsum(sizes, exclusive=True)[:, None]
    is_row = within < sizes[:, None]
    padded = tf.gather(tf.pad(probability, [[0, 1], [0, 0]]), tf.where(is_row, first + within, 0))
    return padded, is_row, first


def _best_of_padded_groups(probability, k, is_row=None, extra=0, first=None):
    """The best rows of G groups of up to N rows.

    Args:
        probability: `[G, N, E]`.
        k, extra: as for `best_tokens`.
        is_row: `[G, N]` bool, the rows of each group; `None` for all.
        first: `[G, 1]` int32, the number of rows of all groups before each; `None` for multiples of
            N.

    Returns:
        As `_best_of_unequal_groups`.
    """
    num_groups, num_rows = tf.shape(probability)[0], tf.shape(probability)[1]
    num_experts = probability.shape[2]
    if first is None:
        first = tf.range(num_groups)[:, None] * num_rows
    if is_row is None:
        num_taken = rows_taken(k, num_rows, num_experts, extra)
        best, rows = top_rows_of_experts(probability, num_taken)
        return best, rows + first[:, :, None], tf.fill([num_groups], num_taken)
    probability = tf.where(is_row[:, :, None], probability, probability.dtype.min)
    sizes = tf.math.count_nonzero(is_row, axis=1, dtype=tf.int32)
    num_taken = rows_taken(k, sizes, num_experts, extra)
    max_taken = rows_taken(k, num_rows, num_experts, extra)
    if not static_shapes():
        max_taken = tf.reduce_max(tf.concat([num_taken, [0]], axis=0))
    best, rows = top_rows_of_experts(probability, max_taken)
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
    all_counts = count_accepted(candidates, num_taken)
    counts = all_counts[collectives.replica_id()]
    mask = tf.sequence_mask(counts, num_local)
    return Assignments(
        tokens=tf.boolean_mask(tokens, mask),
        weights=tf.boolean_mask(best, mask),
        counts=tf.ensure_shape(counts, [num_experts]),
        num_tokens=num_tokens,
        rows_per_expert=num_taken if collectives.shards_experts() else None,
        replica_counts=all_counts,
    )


def _best_of_shared_groups(probability, k, sizes, extra=0):
    """The best rows of groups whose rows are on all replicas, `[G]` of each group on this one."""
    num_experts, num_groups = probability.shape[1], sizes.shape[0]
    replica_sizes = collectives.all_gather(sizes)  # [R, G]
    num_taken = rows_taken(k, tf.reduce_sum(replica_sizes, axis=0), num_experts, extra)
    most = tf.minimum(num_taken, tf.reduce_max(replica_sizes, axis=0))
    num_candidates = tf.maximum(tf.reduce_max(most), 1)
    padded, is_row, first = _padded_groups(probability, sizes)
    lowest = probability.dtype.min
    padded = tf.where(is_row[:, :, None], padded, lowest)
    num_local = tf.minimum(num_candidates, tf.shape(padded)[1])
    best, rows = top_rows_of_experts(padded, num_local)  # [G, E, ≤ Q]
    padding = [[0, 0], [0, 0], [0, num_candidates - num_local]]
    candidates = tf.pad(tf.stop_gradient(best), padding, constant_values=lowest)
    candidates = tf.reshape(candidates, [num_groups * num_experts, num_candidates])
    all_counts = count_accepted(candidates, tf.repeat(num_taken, num_experts))
    counts = tf.ensure_shape(all_counts[collectives.replica_id()], [num_groups * num_experts])
    is_taken = tf.reshape(tf.sequence_mask(counts, num_local), tf.shape(best))
    num_tokens = tf.shape(probability)[0]
    taken = _taken(best, rows + first[:, :, None], is_taken, counts, num_tokens)
    return taken._replace(replica_counts=all_counts)


def count_accepted(best, num_taken):
    """Counts the candidates of each replica that are among the best of all replicas.

    Each replica sends its candidates to the devices of the experts, which compare the candidates of
    all replicas and send the counts to all of them.

    Args:
        best: `[E, Q]` floating point, the best values for each expert on this replica, descending;
            Q is the same on all replicas.
        num_taken: the number of values that an expert takes from all replicas, at most `R·Q`: int32
            scalar or `[E]`.

    Returns:
        `[R, E]` int32. In a tie the values of an earlier replica are taken first.
    """
    replicas, num_experts = collectives.num_replicas(), best.shape[0]
    bounds = np.asarray(shard_bounds(num_experts, replicas))  # [R, 2]
    shard_size = max(bounds[:, 1] - bounds[:, 0])  # E_r
    sent_experts = np.minimum(bounds[:, :1] + np.arange(shard_size), num_experts - 1)
    num_candidates = tf.shape(best)[1]
    sent = tf.gather(best, sent_experts)  # [R, E_r, Q]; an expert of another replica is padding
    received = tf.transpose(collectives.all_to_all(sent), [1, 0, 2])
    by_expert = tf.reshape(received, [shard_size, replicas * num_candidates])
    num_taken = tf.gather(tf.broadcast_to(num_taken, [num_experts]), sent_experts)
    num_taken = num_taken[collectives.replica_id()]  # [E_r]
    indices = tf.math.top_k(by_expert, tf.reduce_max(num_taken)).indices
    sources = tf.one_hot(indices // tf.maximum(num_candidates, 1), replicas, dtype=tf.int32)
    is_taken = tf.sequence_mask(num_taken, tf.shape(indices)[1], dtype=tf.int32)
    sources *= is_taken[:, :, None]
    counts = collectives.all_gather(tf.reduce_sum(sources, axis=1))  # [R, E_r, R]
    by_expert = tf.reshape(counts, [replicas * shard_size, replicas])
    places = [r * shard_size + np.arange(end - begin) for r, (begin, end) in enumerate(bounds)]
    return tf.transpose(tf.gather(by_expert, np.concatenate(places)))
