"""The computation of a mixture: route, limit to the capacity, exchange, compute, combine.

Axes: T tokens, E experts, D model, G groups.
"""

from typing import NamedTuple

import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.distribute.capacity import global_counts, within_capacity
from tfmoe.distribute.exchange import exchange, local
from tfmoe.gating.routing import groups_of
from tfmoe.layers.gate_inputs import GateInputs
from tfmoe.ops.assignments import compose, sort_by_token


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
    num_tokens = gate_inputs.num_tokens()
    assignments = limit_assignments(
        routing.assignments, gate, training, limit, gate.num_experts, num_tokens=num_tokens
    )
    outputs = experts(tokens, assignments, training=training)
    return outputs, with_received(routing.sums, assignments, routing.assignments, tf.identity)


def mix_levels(gate, experts, tokens, training, limit, gate_inputs):
    """`mix` for a hierarchical gate: a mixture whose experts are mixtures (App. B).

    Rows are exchanged once, by the assignments of the primary gate, between the devices of the
    tokens and the devices of the groups. There the secondary gate assigns them to experts. If
    groups are divided among devices, both gates route on the devices of the tokens, and rows are
    exchanged by the assignments to experts.
    """
    outer = gate_inputs.route(gate.primary, training)
    num_tokens = gate_inputs.num_tokens()
    to_groups = limit_assignments(outer.assignments, gate.primary, training, num_tokens=num_tokens)
    if limit.factor is not None or gate.secondary.token_capacity(training) is not None:
        # The order of the rows must not depend on the number of devices.
        to_groups = sort_by_token(to_groups)
    dispatcher = local(to_groups) if gate.divides_groups() else exchange(to_groups)
    rows = dispatcher.dispatch_kept(tokens)
    groups = groups_of(dispatcher)
    inner = gate_inputs.route_groups(gate.secondary, dispatcher, tokens, rows, training)
    num_experts = gate.num_experts
    assignments = limit_assignments(
        inner.assignments, gate.secondary, training, limit, num_experts, groups
    )
    if gate.divides_groups():
        to_experts = compose(to_groups, assignments)
        outputs = experts(tokens, to_experts, training=training)
    else:
        outputs = dispatcher.combine(experts.compute_local(rows, assignments, training))
    sums = gate.level_sums(outer, inner, dispatcher, training)

    def pad_to_all_experts(load):
        load = tf.reshape(load, [groups.sizes.shape[0], num_experts // gate.groups])
        return tf.reshape(gate.pad_to_all_groups(load), [num_experts])

    sums = with_received(sums, assignments, inner.assignments, pad_to_all_experts)
    sums["outer"] = with_received(sums["outer"], to_groups, outer.assignments, tf.identity)
    return outputs, sums


def limit_assignments(
    assignments, gate, training, limit=NO_LIMIT, num_experts=None, groups=None, num_tokens=None
):
    """Drops the assignments beyond the capacity of the experts, if they have one.

    Args:
        assignments: `Assignments`.
        gate: the gate that returned them; it may set a capacity too.
        training: whether the step trains.
        limit: the `Limit` of the mixture.
        num_experts: the number of experts of the mixture.
        groups: the `Groups` of the rows at the inner level of a hierarchical mixture; else `None`.
        num_tokens: int32 scalar, the number of tokens on this device; `None` for all rows.
    """
    shared = groups is None or groups.shared
    factor = gate.token_capacity(training)
    if factor is not None:
        minimum = gate.minimum_capacity
        num_tokens = global_counts(assignments, num_tokens)[0] if groups is None else groups.sizes
        if groups is not None and shared:
            num_tokens = collectives.all_reduce_sum(num_tokens)
        capacity = capacity_of(factor, num_tokens, gate.num_experts, minimum)
        capacity = tf.repeat(capacity, gate.num_experts)
        bound = capacity_of(factor, assignments.num_tokens, gate.num_experts, minimum)
        assignments = within_capacity(assignments, capacity, gate.capacity_priority, shared, bound)
    if limit.factor is not None:
        _, num_assignments = global_counts(assignments)
        capacity = capacity_of(limit.factor, num_assignments, num_experts)
        bound = capacity_of(limit.factor, tf.size(assignments.tokens), num_experts)
        assignments = within_capacity(assignments, capacity, limit.priority, shared, bound)
    return assignments


def capacity_of(factor, count, num_experts, minimum=0):
    """`⌈factor · count / n⌉`, but at least `minimum`, int32, for one count or several."""
    capacity = factor * tf.cast(count, tf.float32) / num_experts
    return tf.maximum(tf.cast(tf.math.ceil(capacity), tf.int32), minimum)


def with_received(sums, limited, unlimited, convert):
    """Adds `received`, the converted counts of `limited`, if assignments were limited."""
    if limited is unlimited:
        return sums
    return {**sums, "received": convert(tf.cast(limited.counts, sums["load"].dtype))}
