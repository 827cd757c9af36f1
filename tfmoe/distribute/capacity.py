"""A limit on the rows that an expert takes of a global batch.

Axes: T tokens, E experts, K experts per token, A assignments, R replicas, Q classes of assignments
of which an expert prefers each to the next.
"""

import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.distribute.best_tokens import taken_of_candidates
from tfmoe.ops.assignments import drop, sort_by_token
from tfmoe.ops.segments import segment_ids


def within_capacity(assignments, capacity, priority="position", shared=True):
    """Drops the assignments that an expert cannot take.

    Args:
        assignments: `Assignments` of this replica's tokens.
        capacity: how many rows of the global batch an expert takes at most: int32 scalar, or `[E]`.
        priority: which assignments an expert keeps: `"position"`, the first in the order of the
            global batch; `"choice"`, first choices of tokens before second ones, and so on, each in
            the order of the batch (GShard, Lepikhin et al. 2021); `"weight"`, those of the largest
            weights.
        shared: whether other replicas have tokens for the same experts.

    Returns:
        `Assignments`.

    Raises:
        ValueError: for another priority; for `"choice"` where tokens have differing numbers of
            experts.
    """
    if priority not in PRIORITIES:
        raise ValueError(f"priority must be one of {', '.join(PRIORITIES)}, got {priority!r}")
    assignments = sort_by_token(assignments)
    num_experts = assignments.counts.shape[0]
    capacity = tf.broadcast_to(capacity, [num_experts])
    communicates = shared and collectives.num_replicas() > 1
    kept = PRIORITIES[priority](assignments, capacity, communicates)
    behind = tf.size(assignments.tokens) - tf.size(kept)
    return drop(assignments, tf.pad(kept, [[0, behind]]))


def global_counts(assignments, shared=True):
    """Tokens and assignments of the global batch: two int32 scalars; `shared` as above."""
    own = tf.stack([assignments.num_tokens, assignments.num_kept()])
    if shared and collectives.num_replicas() > 1:
        own = tf.reduce_sum(collectives.all_gather(tf.ensure_shape(own, [2])), axis=0)
    return own[0], own[1]


def _first(assignments, capacity, communicates):
    none = tf.zeros([assignments.num_kept()], tf.int32)
    return _first_of_classes(assignments, none, 1, capacity, communicates)


def _first_choices(assignments, capacity, communicates):
    if assignments.slots is None:
        raise ValueError(
            "priority must not be 'choice' where tokens have differing numbers of experts"
        )
    num_choices = assignments.slots.shape[1]
    choices = tf.broadcast_to(tf.range(num_choices), tf.shape(assignments.slots))
    inverse = tf.math.invert_permutation(tf.reshape(assignments.slots, [-1]))
    choice = tf.gather(tf.reshape(choices, [-1]), inverse)[: assignments.num_kept()]
    return _first_of_classes(assignments, choice, num_choices, capacity, communicates)


def _first_of_classes(assignments, classes, num_classes, capacity, communicates):
    """`[sum(counts)]` bool: an expert keeps its first rows, those of class 0 before all others.

    Args:
        assignments: `Assignments`.
        classes: `[sum(counts)]` int32, of each assignment.
        num_classes: Q, a Python integer.
        capacity: `[E]` int32.
        communicates: whether to count the assignments of other replicas.
    """
    num_experts = assignments.counts.shape[0]
    experts = assignments.experts()
    cells = experts * num_classes + classes
    counts = tf.math.bincount(
        cells, minlength=num_experts * num_classes, maxlength=num_experts * num_classes
    )
    own = tf.ensure_shape(counts, [num_experts * num_classes])
    every, replica = own[None], 0
    if communicates:
        every, replica = collectives.all_gather(own), collectives.replica_id()
    every = tf.reshape(every, [-1, num_experts, num_classes])
    of_all = tf.reduce_sum(every, axis=0)
    before = tf.cumsum(of_all, axis=1, exclusive=True) + tf.reduce_sum(every[:replica], axis=0)
    # The rank of an assignment among those of its expert and class.
    order = tf.argsort(cells, stable=True)
    rank = tf.gather(
        tf.range(tf.size(cells)) - tf.gather(tf.cumsum(own, exclusive=True), segment_ids(own)),
        tf.math.invert_permutation(order),
    )
    place = rank + tf.gather(tf.reshape(before, [-1]), cells)
    return place < tf.gather(capacity, experts)


def _heaviest(assignments, capacity, communicates):
    """`[sum(counts)]` bool: an expert keeps the rows of the largest weights, among equal ones the
    first.
    """
    experts = assignments.experts()
    weights = tf.stop_gradient(assignments.weights[: tf.size(experts)])
    by_weight = tf.argsort(weights, direction="DESCENDING", stable=True)
    order = tf.gather(by_weight, tf.argsort(tf.gather(experts, by_weight), stable=True))
    first = tf.gather(tf.cumsum(assignments.counts, exclusive=True), experts)
    rank = tf.gather(tf.range(tf.size(experts)) - first, tf.math.invert_permutation(order))
    if communicates:
        capacity = _share(assignments.counts, tf.gather(weights, order), capacity)
    return rank < tf.gather(capacity, experts)


def _share(counts, weights, capacity):
    """`[E]` int32: how many of its heaviest rows an expert takes of this replica.

    Args:
        counts: `[E]` int32.
        weights: `[sum(counts)]`, sorted by expert, and by falling weight.
        capacity: `[E]` int32, the same for all experts.
    """
    capacity = tf.reduce_max(capacity)
    num_candidates = tf.reduce_max(collectives.all_gather(tf.reduce_max(counts)))
    rows = tf.RaggedTensor.from_row_lengths(weights, counts, validate=False)
    best = tf.ensure_shape(
        rows.to_tensor(-1.0, shape=[counts.shape[0], None]), [counts.shape[0], None]
    )
    best = tf.pad(best, [[0, 0], [0, num_candidates - tf.shape(best)[1]]], constant_values=-1)
    most = num_candidates * collectives.num_replicas()
    return taken_of_candidates(best, tf.minimum(capacity, most))


PRIORITIES = {"position": _first, "choice": _first_choices, "weight": _heaviest}
