"""The computation of a mixture: route, limit to the capacity, exchange, compute, combine.

Axes: T tokens, E experts, D model, G groups.
"""

from typing import NamedTuple

import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.distribute.capacity import global_counts, within_capacity
from tfmoe.distribute.exchange import exchange
from tfmoe.gating.routing import Groups
from tfmoe.layers.gate_inputs import GateInputs
from tfmoe.ops.assignments import sort_by_token


class Limit(NamedTuple):
    """The capacity that a mixture sets for its experts: `⌈factor · A / n⌉` rows, for A assignments
    of the global batch to n experts.

    Attributes:
        factor: the capacity factor; `None` for no limit.
        priority: see `tfmoe.distribute.capacity.within_capacity`.
    """

    factor: float | None = None
    priority: str = "position"


NO_LIMIT = Limit()


def mix(gate, experts, tokens, training=False, limit=NO_LIMIT, gate_inputs=None):
    """Runs tokens through a mixture.

    Args:
        gate: a built gate.
        experts: `tfmoe.layers.RoutedExperts`.
        tokens: `[T, D]` float.
        training: whether the step trains.
        limit: a `Limit`.
        gate_inputs: `GateInputs`; `None` if the gate reads the tokens.

    Returns:
        `[T, D]` outputs; and the sums of the gate over the tokens of this device. If experts have a
        capacity, the sums include `received` `[E]`, the count of assignments that are not dropped.
    """
    gate_inputs = gate_inputs or GateInputs(tokens)
    if gate.secondary is not None:
        return mix_levels(gate, experts, tokens, training, limit, gate_inputs)
    routing = gate_inputs.route(gate, training)
    assignments = limit_assignments(routing.assignments, gate, training, limit, gate.num_experts)
    outputs = experts(tokens, assignments, training=training)
    return outputs, with_received(routing.sums, assignments, routing.assignments, tf.identity)


def mix_levels(gate, experts, tokens, training, limit, gate_inputs):
    """`mix` for a hierarchical gate: a mixture whose experts are mixtures (App. B).

    Rows are exchanged once, by the assignments of the primary gate, between the devices of the
    tokens and the devices of the groups. There the secondary gate assigns them to experts.
    """
    outer = gate_inputs.route(gate.primary, training)
    to_groups = limit_assignments(outer.assignments, gate.primary, training)
    if limit.factor is not None or gate.secondary.token_capacity(training) is not None:
        # The order of the rows must not depend on the number of devices.
        to_groups = sort_by_token(to_groups)
    dispatcher = exchange(to_groups)
    rows = dispatcher.dispatch_kept(tokens)
    groups = Groups(dispatcher.counts, dispatcher.rows_per_expert)
    inner = gate_inputs.route_groups(gate.secondary, dispatcher, tokens, rows, training)
    num_experts = gate.num_experts
    assignments = limit_assignments(
        inner.assignments, gate.secondary, training, limit, num_experts, groups
    )
    outputs = experts.compute_local(rows, assignments, training)
    sums = gate.level_sums(outer, inner, dispatcher, training)

    def pad_to_all_experts(load):
        load = tf.reshape(load, [groups.sizes.shape[0], num_experts // gate.groups])
        return tf.reshape(gate.pad_to_all_groups(load), [num_experts])

    sums = with_received(sums, assignments, inner.assignments, pad_to_all_experts)
    sums["outer"] = with_received(sums["outer"], to_groups, outer.assignments, tf.identity)
    return dispatcher.combine(outputs), sums


def limit_assignments(assignments, gate, training, limit=NO_LIMIT, num_experts=None, groups=None):
    """Drops the assignments beyond the capacity of the experts, if they have one.

    Args:
        assignments: `Assignments`.
        gate: the gate that returned them; it may set a capacity too.
        training: whether the step trains.
        limit: the `Limit` of the mixture.
        num_experts: the number of experts of the mixture.
        groups: the `Groups` of the rows at the inner level of a hierarchical mixture; else `None`.
    """
    shared = groups is None or not collectives.shards_experts()
    factor = gate.token_capacity(training)
    if factor is not None:
        num_tokens = global_counts(assignments)[0] if groups is None else groups.sizes
        if groups is not None and shared:
            num_tokens = collectives.all_reduce_sum(num_tokens)
        capacity = max_rows(factor, num_tokens, gate.num_experts)
        capacity = tf.maximum(capacity, gate.minimum_capacity)
        capacity = tf.repeat(capacity, gate.num_experts)
        priority = gate.capacity_priority
        assignments = within_capacity(assignments, capacity, priority, shared)
    if limit.factor is not None:
        _, num_assignments = global_counts(assignments)
        capacity = max_rows(limit.factor, num_assignments, num_experts)
        assignments = within_capacity(assignments, capacity, limit.priority, shared)
    return assignments


def max_rows(factor, count, num_experts):
    """`⌈factor · count / n⌉`, int32, for one count or several."""
    capacity = factor * tf.cast(count, tf.float32) / num_experts
    return tf.cast(tf.math.ceil(capacity), tf.int32)


def with_received(sums, limited, unlimited, convert):
    """Adds `received`, the converted counts of `limited`, if assignments were limited."""
    if limited is unlimited:
        return sums
    return {**sums, "received": convert(tf.cast(limited.counts, sums["load"].dtype))}
