"""Expert capacity: the maximum number of rows of a global batch that an expert accepts.

Axes: T tokens, E experts, K experts per token, A assignments, R replicas, Q priority classes of
assignments, highest priority first.
"""

import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.distribute.best_tokens import count_accepted
from tfmoe.ops.assignments import drop, sort_by_token
from tfmoe.ops.sorting import inverse_permutation, sum_by_id


def within_capacity(assignments, capacity, priority="position", shared=True, max_rows=None):
    """Drops the assignments beyond the capacity of an expert.

    Args:
        assignments: `Assignments` of this replica's tokens.
        capacity: the maximum number of rows of the global batch per expert: int32 scalar or `[E]`.
        priority: which assignments an expert keeps: `"position"`, the first in the order of the
            global batch; `"choice"`, first choices of tokens before second choices and so on, each
            in the order of the batch (GShard, Lepikhin et al. 2021); `"weight"`, those with the
            largest weights.
        shared: whether other replicas have tokens for the same experts.
        max_rows: for static assignments, the largest value that `capacity` can have if all tokens
            are on this replica, known from shapes.

    Returns:
        `Assignments`.

    Raises:
        ValueError: the priority is unknown, or is `"choice"` and the number of experts varies by
            token.
    """
    if priority not in PRIORITIES:
        raise ValueError(f"priority must be one of {', '.join(PRIORITIES)}, got {priority!r}")
    assignments = sort_by_token(assignments)
    num_experts = assignments.counts.shape[0]
    capacity = tf.broadcast_to(capacity, [num_experts])
    communicates = shared and collectives.num_replicas() > 1
    kept, replica_counts = PRIORITIES[priority](assignments, capacity, communicates)
    if not assignments.is_static:
        max_rows = None
    elif max_rows is None or communicates:  # all rows of an expert can be on one replica
        max_rows = assignments.num_tokens
    else:
        max_rows = tf.minimum(max_rows, assignments.num_tokens)
    limited = drop(assignments, kept & assignments.is_kept(), max_rows)
    return limited._replace(replica_counts=replica_counts)


def global_counts(assignments, num_tokens=None):
    """Counts the tokens and the assignments of the global batch: two int32 scalars.

    Args:
        assignments: `Assignments` of this replica's tokens.
        num_tokens: the number of tokens on this device; `None` for those of `assignments`.
    """
    if num_tokens is None:
        num_tokens = assignments.num_tokens
    counts = tf.stack([num_tokens, assignments.num_kept()])
    if collectives.num_replicas() > 1:
        counts = tf.reduce_sum(collectives.all_gather(tf.ensure_shape(counts, [2])), axis=0)
    return counts[0], counts[1]


def _first(assignments, capacity, communicates):
    classes = tf.zeros_like(assignments.tokens)
    return _first_of_classes(assignments, classes, 1, capacity, communicates)


def _first_choices(assignments, capacity, communicates):
    if assignments.slots is None:
        raise ValueError("priority must not be 'choice' if the number of experts varies by token")
    num_choices = assignments.slots.shape[1]
    choices = tf.broadcast_to(tf.range(num_choices), tf.shape(assignments.slots))
    slots = tf.reshape(assignments.slots, [-1])
    choice = tf.gather(tf.reshape(choices, [-1]), inverse_permutation(slots, assignments.is_static))
    return _first_of_classes(assignments, choice, num_choices, capacity, communicates)


def _first_of_classes(assignments, classes, num_classes, capacity, communicates):
    """An expert keeps its first rows by class, then by position.

    Args:
        assignments: `Assignments`.
        classes: `[A]` int32, the class of each assignment.
        num_classes: Q, a Python integer.
        capacity: `[E]` int32.
        communicates: whether to count the assignments of other replicas.

    Returns:
        Whether each assignment is kept, `[A]` bool; any value for those that are dropped. And the
        count that each replica keeps for each expert, `[R, E]` int32; `None` if the replicas do not
        communicate.
    """
    num_experts = assignments.counts.shape[0]
    experts = tf.minimum(assignments.all_experts(), num_experts - 1)
    cells = experts * num_classes + classes
    num_cells = num_experts * num_classes
    is_kept = tf.cast(assignments.is_kept(), tf.int32)
    counts = sum_by_id(is_kept, cells, num_cells, assignments.is_static)
    all_counts, replica = counts[None], 0
    if communicates:
        all_counts, replica = collectives.all_gather(counts), collectives.replica_id()
    all_counts = tf.reshape(all_counts, [-1, num_experts, num_classes])
    # The rows of an expert that come before those of a replica and a class.
    earlier_classes = tf.cumsum(tf.reduce_sum(all_counts, axis=0), axis=1, exclusive=True)
    offsets = earlier_classes + tf.cumsum(all_counts, axis=0, exclusive=True)  # [R, E, Q]
    kept_counts = tf.clip_by_value(capacity[:, None] - offsets, 0, all_counts)
    # The rank of an assignment among those of its expert and class on this replica. Dropped
    # assignments are last.
    position = tf.range(tf.size(cells))
    if num_classes > 1:
        order = tf.argsort(tf.where(assignments.is_kept(), cells, num_cells), stable=True)
        position = inverse_permutation(order, assignments.is_static)
    rank = position - tf.gather(tf.cumsum(counts, exclusive=True), cells)
    kept = rank < tf.gather(tf.reshape(kept_counts[replica], [-1]), cells)
    return kept, tf.reduce_sum(kept_counts, axis=2) if communicates else None


def _heaviest(assignments, capacity, communicates):
    """An expert keeps the rows with the largest weights, the first rows in a tie; results as for
    `_first_of_classes`, without the counts of other replicas.
    """
    experts = assignments.all_experts()
    weights = tf.stop_gradient(assignments.weights)
    by_weight = tf.argsort(weights, direction="DESCENDING", stable=True)
    order = tf.gather(by_weight, tf.argsort(tf.gather(experts, by_weight), stable=True))
    experts = tf.minimum(experts, assignments.counts.shape[0] - 1)
    first = tf.gather(tf.cumsum(assignments.counts, exclusive=True), experts)
    rank = inverse_permutation(order, assignments.is_static) - first
    if communicates:
        weights = tf.gather(weights, order)[: assignments.num_kept()]
        capacity = _local_capacity(assignments.counts, weights, capacity)
    return rank < tf.gather(capacity, experts), None


def _local_capacity(counts, weights, capacity):
    """The number of this replica's heaviest rows that each expert accepts, `[E]` int32.

    Args:
        counts: `[E]` int32, the rows of each expert on this replica.
        weights: `[sum(counts)]`, sorted by expert, then by descending weight.
        capacity: `[E]` int32.
    """
    num_candidates = tf.reduce_max(collectives.all_gather(tf.reduce_max(counts)))
    rows = tf.RaggedTensor.from_row_lengths(weights, counts, validate=False)
    best = tf.ensure_shape(
        rows.to_tensor(-1.0, shape=[counts.shape[0], None]), [counts.shape[0], None]
    )
    best = tf.pad(best, [[0, 0], [0, num_candidates - tf.shape(best)[1]]], constant_values=-1)
    max_accepted = num_candidates * collectives.num_replicas()
    return count_accepted(best, tf.minimum(capacity, max_accepted))[collectives.replica_id()]


PRIORITIES = {"position": _first, "choice": _first_choices, "weight": _heaviest}
