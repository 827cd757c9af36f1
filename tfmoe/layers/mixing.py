"""From tokens to outputs of a mixture: route, limit, exchange, compute, combine.

Axes: T tokens, E experts, D model, G groups.
"""

from typing import NamedTuple

import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.distribute.capacity import global_counts, within_capacity
from tfmoe.distribute.exchange import exchange
from tfmoe.gating.routing import Groups
from tfmoe.ops.assignments import sort_by_token


class Limit(NamedTuple):
    """A mixture's own limit on the rows of an expert: `⌈factor · A / n⌉` of A assignments of the
    global batch to n experts.

    Attributes:
        factor: `None` for no limit.
        priority: see `tfmoe.distribute.capacity.within_capacity`.
    """

    factor: float | None = None
    priority: str = "position"


NO_LIMIT = Limit()


def mix(gate, experts, tokens, training=False, limit=NO_LIMIT):
    """Runs tokens through a mixture.

    Args:
        gate: a built gate.
        experts: `tfmoe.layers.RoutedExperts`.
        tokens: `[T, D]` float.
        training: whether the step trains.
        limit: a `Limit`.

    Returns:
        `[T, D]` outputs, and the sums of the gate over the tokens of this device; where experts
        have a capacity, also `received` `[E]`: the assignments that were not dropped.
    """
    if gate.secondary is not None:
        return mix_levels(gate, experts, tokens, training, limit)
    routing = gate(tokens, training=training)
    assignments = limited(routing.assignments, gate, training, limit, gate.num_experts)
    outputs = experts(tokens, assignments, training=training)
    return outputs, with_received(routing.sums, assignments, routing.assignments, tf.identity)


def mix_levels(gate, experts, tokens, training=False, limit=NO_LIMIT):
    """`mix` for a hierarchical gate: a mixture whose experts are mixtures (App. B).

    Rows travel by the primary gate alone, once to the device of a group and once back. On that
    device the group's secondary gate routes them further.
    """
    outer = gate.primary(tokens, training=training)
    to_groups = limited(outer.assignments, gate.primary, training)
    if limit.factor is not None or gate.secondary.token_capacity(training) is not None:
        to_groups = sort_by_token(
            to_groups
        )  # so that "the first" are the same on any number of devices
    way = exchange(to_groups)
    rows = way.dispatch_kept(tokens)
    groups = Groups(way.counts, way.rows_per_expert)
    inner = gate.secondary(rows, training=training, groups=groups)
    num_experts = gate.num_experts
    assignments = limited(inner.assignments, gate.secondary, training, limit, num_experts, groups)
    outputs = experts.on_this_device(rows, assignments, training)
    sums = gate.sums_of_levels(outer, inner, way, training)

    def of_all_experts(load):
        per_group = num_experts // gate.groups
        load = gate.of_all_groups(tf.reshape(load, [groups.sizes.shape[0], per_group]))
        return tf.reshape(load, [num_experts])

    sums = with_received(sums, assignments, inner.assignments, of_all_experts)
    sums["outer"] = with_received(sums["outer"], to_groups, outer.assignments, tf.identity)
    return way.combine(outputs), sums


def limited(assignments, gate, training, limit=NO_LIMIT, num_experts=None, groups=None):
    """The assignments within the capacity of the experts, if they have one.

    Args:
        assignments: `Assignments`.
        gate: which made them; it may have a capacity of its own.
        training: whether the step trains.
        limit: the mixture's own `Limit`.
        num_experts: of the mixture.
        groups: the `Groups` of the rows at the inner level of a hierarchical mixture; else `None`.
    """
    shared = groups is None or not collectives.shards_experts()
    factor = gate.token_capacity(training)
    if factor is not None:
        num_tokens = global_counts(assignments)[0] if groups is None else groups.sizes
        if groups is not None and shared:
            num_tokens = collectives.all_reduce_sum(num_tokens)
        capacity = tf.repeat(rows(factor, num_tokens, gate.num_experts), gate.num_experts)
        priority = gate.capacity_priority
        assignments = within_capacity(assignments, capacity, priority, shared)
    if limit.factor is not None:
        _, selected = global_counts(assignments)
        capacity = rows(limit.factor, selected, num_experts)
        assignments = within_capacity(assignments, capacity, limit.priority, shared)
    return assignments


def rows(factor, number, num_experts):
    """`⌈factor · number / n⌉`, int32, of an integer or integers."""
    capacity = factor * tf.cast(number, tf.float32) / num_experts
    return tf.cast(tf.math.ceil(capacity), tf.int32)


def with_received(sums, limited, selected, of_all_experts):
    """The sums, with `received` if the assignments were limited."""
    if limited is selected:
        return sums
    return {**sums, "received": of_all_experts(tf.cast(limited.counts, sums["load"].dtype))}
