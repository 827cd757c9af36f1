"""Expert capacity: the maximum number of rows of a global batch that an expert accepts.

Axes: T tokens, E experts, K experts per token, A assignments, R replicas, Q priority classes of
assignments, highest priority first.
"""

import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.distribute.best_tokens import count_accepted
from tfmoe.ops.assignments import drop, sort_by_token
from tfmoe.ops.sorting import inverse_permutation


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
        max_rows: for static assignments, the largest value that `capacity` can have, known from
            shapes; no more than the tokens are used.

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
    kept = PRIORITIES[priority](assignments, capacity, communicates)
    if max_rows is not None:
        max_rows = tf.minimum(max_rows, assignments.num_tokens)
    return drop(assignments, kept & assignments.is_kept(), max_rows)


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
    """Whether each assignment is kept, `[A]` bool; any value for those that are dropped. An expert
    keeps its first rows by class, then by position.

    Args:
        assignments: `Assignments`.
        classes: `[A]` int32, the class of each assignment.
        num_classes: Q, a Python integer.
        capacity: `[E]` int32.
        communicates: whether to count the assignments of other replicas.
    """
    num_experts = assignments.counts.shape[0]
    experts = tf.minimum(assignments.all_experts(), num_experts - 1)
    cells = experts * num_classes + classes
    num_cells = num_experts * num_classes
    counts = tf.math.unsorted_segment_sum(
        tf.cast(assignments.is_kept(), tf.int32), cells, num_cells
    )
    replica_counts, replica = counts[None], 0
    if communicates:
        replica_counts, replica = collectives.all_gather(counts), collectives.replica_id()
    replica_counts = tf.reshape(replica_counts, [-1, num_experts, num_classes])
    global_class_counts = tf.reduce_sum(replica_counts, axis=0)
    earlier_classes = tf.cumsum(global_class_counts, axis=1, exclusive=True)
    earlier_replicas = tf.reduce_sum(replica_counts[:replica], axis=0)
    offsets = tf.reshape(earlier_classes + earlier_replicas, [-1])
    # The rank of an assignment among those of its expert and class on this replica. Dropped
    # assignments are last.
    position = tf.range(tf.size(cells))
    if num_classes > 1:
        order = tf.argsort(tf.where(assignments.is_kept(), cells, num_cells), stable=True)
        position = inverse_permutation(order, assignments.is_static)
    rank = position - tf.gather(tf.cumsum(counts, exclusive=True), cells)
    return rank + tf.gather(offsets, cells) < tf.gather(capacity, experts)


def _heaviest(assignments, capacity, communicates):
    """Whether each assignment is kept, `[A]` bool; any value for those that are dropped. An expert
    keeps the rows with the largest weights, the first rows in a tie.
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
    return rank < tf.gather(capacity, experts)


def _local_capacity(counts, weights, capacity):
    """The number of this replica's heaviest rows that each expert accepts, `[E]` int32.

    Args:
        counts: `[E]` int32, the rows of each expert on this replica.
        weights: `[sum(counts)]`, sorted by expert, then by descending weight.
        capacity: `[E]` int32, the same for all experts.
    """
    capacity = tf.reduce_max(capacity)
    num_candidates = tf.reduce_max(collectives.all_gather(tf.reduce_max(counts)))
    rows = tf.RaggedTensor.from_row_lengths(weights, counts, validate=False)
    best = tf.ensure_shape(
        rows.to_tensor(-1.0, shape=[counts.shape[0], None]), [counts.shape[0], None]
    )
    best = tf.pad(best, [[0, 0], [0, num_candidates - tf.shape(best)[1]]], constant_values=-1)
    max_accepted = num_candidates * collectives.num_replicas()
    return count_accepted(best, tf.minimum(capacity, max_accepted))


PRIORITIES = {"position": _first, "choice": _first_choices, "weight": _heaviest}
