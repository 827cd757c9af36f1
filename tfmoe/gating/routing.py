"""The result of a gate: assignments, and sums over its tokens.

Axes: T tokens, E experts of one gate, K experts per token, A assignments, G groups.
"""

from typing import NamedTuple

import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.distribute.static_shapes import static_shapes
from tfmoe.ops.assignments import Assignments, assign_tokens
from tfmoe.ops.padded_rows import expert_of_rows
from tfmoe.ops.segments import segment_ids


class Routing(NamedTuple):
    """The assignments that a gate makes for its tokens, and sums over these tokens.

    Attributes:
        assignments: `tfmoe.ops.assignments.Assignments`.
        sums: `{name: tensor}`, sums over the gate's tokens, in one floating-point dtype of at least
            32 bits: `[]` or `[E]` for a single gate, `[G]` or `[G, E]` for G gates at once. Every
            gate has `tokens`, `importance` (eq 6) and `load` (the count of assignments that are not
            dropped). Some gates add `smooth_load` (eq 10) or `probability`.
    """

    assignments: Assignments
    sums: dict

    @property
    def importance(self) -> tf.Tensor:
        """`[E]`, the sum of the gate values of each expert (eq 6)."""
        return self.sums["importance"]

    @property
    def load(self) -> tf.Tensor:
        """`[E]`, the number of tokens that each expert receives."""
        return self.sums["load"]


class Groups(NamedTuple):
    """The groups of rows: those of a hierarchical mixture, or sequences; and which rows a gate
    routes. Rows are sorted by group.

    Attributes:
        sizes: `[G]` int32, the number of rows in each group that are routed; `None` for the rows of
            a single gate.
        size: `[]` int32, the number of rows in each group, routed or not, if all are equal; else
            `None`.
        mask: `[T]` bool, `False` for rows that are not routed and not counted, such as padding;
            `None` if all rows are routed. Without `size`, they are the last rows.
    """

    sizes: tf.Tensor | None = None
    size: tf.Tensor | None = None
    mask: tf.Tensor | None = None

    @property
    def shared(self) -> bool:
        """Whether other replicas have rows of the same groups."""
        return isinstance(self, SharedGroups)

    def of_rows(self) -> tf.Tensor:
        """The group of each row, `[T]` int32; any for a row that is not routed.

        Raises:
            ValueError: the rows have no groups.
        """
        if self.sizes is None:
            raise ValueError("the rows of a single gate have no groups")
        if self.size is not None:
            return tf.range(tf.size(self.sizes) * self.size) // tf.maximum(self.size, 1)
        if self.mask is None:
            return segment_ids(self.sizes)
        last = self.sizes.shape[0] - 1
        return tf.minimum(expert_of_rows(self.sizes, tf.size(self.mask)), last)

    def sum(self, rows: tf.Tensor) -> tf.Tensor:
        """Sums the rows of each group, `[T, ...]` to `[G, ...]`; rows that are not routed do not
        count.

        Args:
            rows: `[T, ...]`.
        """
        return tf.math.unsorted_segment_sum(
            zero_if_masked(rows, self), self.of_rows(), tf.size(self.sizes)
        )


class SharedGroups(Groups):
    """`Groups` that have rows on several replicas."""


def are_grouped(groups):
    """Whether rows belong to the G gates of a hierarchical gate, not to a single gate.

    Args:
        groups: `Groups`, or `None`.
    """
    return groups is not None and groups.sizes is not None


def mask_of(groups):
    """The mask of the rows, `[T]` bool; `None` if all are routed. Arguments as for
    `are_grouped`.
    """
    return None if groups is None else groups.mask


def zero_if_masked(rows, groups):
    """The `[T, ...]` rows, with 0 in those that are not routed. `groups` as for `are_grouped`."""
    mask = mask_of(groups)
    if mask is None:
        return rows
    for _ in range(rows.shape.rank - 1):
        mask = tf.expand_dims(mask, -1)
    return tf.where(mask, rows, tf.zeros([], rows.dtype))


def draws_of_tokens(draws, groups):
    """The random numbers of the rows: the i-th row that is routed has the i-th draw, as if no other
    rows were there. So noise does not depend on whether padding is removed or masked.

    Args:
        draws: `[T, ...]`.
        groups: as for `are_grouped`.
    """
    mask = mask_of(groups)
    if mask is None:
        return draws
    return tf.gather(draws, tf.maximum(tf.cumsum(tf.cast(mask, tf.int32)) - 1, 0))


def groups_of(dispatcher) -> Groups:
    """The groups of the rows that an exchange sent to their gates.

    Args:
        dispatcher: `tfmoe.distribute.exchange.Local`, or another exchange.
    """
    shared = dispatcher.is_local and collectives.num_replicas() > 1
    cls = SharedGroups if shared else Groups
    return cls(dispatcher.counts, dispatcher.rows_per_expert, dispatcher.row_mask())


def sums_of(assignments, num_experts, groups=None, **per_token):
    """Computes the sums that every gate has, and further ones.

    Args:
        assignments: `Assignments`; to `G·E` experts for G gates at once.
        num_experts: E, a Python integer.
        groups: `None`, or the `Groups` of the tokens.
        **per_token: `[T]` or `[T, E]` tensors, which are summed over the tokens.

    Returns:
        `{name: tensor}`, see `Routing`.
    """
    dtype = sum_dtype(assignments.weights.dtype)
    importance = assignments.sum_by_expert(tf.cast(assignments.weights, dtype))
    by_expert = {"importance": importance, "load": tf.cast(assignments.counts, dtype)}
    per_token = {
        name: zero_if_masked(tf.cast(values, dtype), groups) for name, values in per_token.items()
    }
    if not are_grouped(groups):
        mask = mask_of(groups)
        tokens = assignments.num_tokens if mask is None else tf.math.count_nonzero(mask)
        tokens = tf.cast(tokens, dtype)
        others = {name: tf.reduce_sum(values, axis=0) for name, values in per_token.items()}
        shape = [num_experts]
    else:
        tokens = tf.cast(groups.sizes, dtype)
        others = {name: groups.sum(values) for name, values in per_token.items()}
        shape = [groups.sizes.shape[0], num_experts]
    by_expert = {name: tf.reshape(values, shape) for name, values in by_expert.items()}
    return {"tokens": tokens, **by_expert, **others}


def rows_of(values, groups):
    """The values of each row's group: `[G, ...]` to `[T, ...]`; without groups the values.

    Args:
        values: a tensor or a weight.
        groups: `None`, or the `Groups` of the rows.
    """
    values = tf.convert_to_tensor(values)
    return tf.gather(values, groups.of_rows()) if are_grouped(groups) else values


def sum_dtype(dtype):
    """The dtype for sums of values: at least 32 bits, since 16 bits cannot count to 1000."""
    return tf.float32 if tf.as_dtype(dtype).size < 4 else dtype


def global_expert_ids(experts, num_experts, groups):
    """Converts expert ids within the group of each row to ids among the experts of all groups. The
    assignments of rows that are not routed are dropped.

    Args:
        experts: `[T, K]` int32; the id E drops an assignment.
        num_experts: E.
        groups: `None`, or the `Groups` of the rows.

    Returns:
        `[T, K]` int32 ids; and the total number of experts, the id that drops an assignment.
    """
    mask = mask_of(groups)
    if mask is not None:
        experts = tf.where(tf.expand_dims(mask, 1), experts, num_experts)
    if not are_grouped(groups):
        return experts, num_experts
    total = groups.sizes.shape[0] * num_experts
    ids = groups.of_rows()[:, None] * num_experts + experts
    return tf.where(experts < num_experts, ids, total), total


def checked_routing(name, routing):
    """Returns what `route` returned, if it is a `Routing`; else raises a `TypeError`.

    Args:
        name: name of the gate's class.
        routing: what its `route` returned.
    """
    if not isinstance(routing, Routing):
        raise TypeError(
            f"{name}.route must return a tfmoe.gating.Routing: return "
            f"self.routing_of_tokens(experts, weights, groups); it returned {routing!r:.200}"
        )
    return routing


def assignments_of(name, selection, num_experts, groups):
    """The assignments of tokens that select K experts each.

    Args:
        name: name of the gate's class, for the error.
        selection: the ids and the weights, `[T, K]`; see `Gate.routing_of_tokens`.
        num_experts: E.
        groups: `None`, or the `Groups` of the rows.

    Raises:
        ValueError: the ids or the weights have a wrong dtype or shape.
    """
    experts, weights = map(tf.convert_to_tensor, selection)
    if not experts.dtype.is_integer:
        raise ValueError(f"{name}.route: experts must be integer ids, got {experts.dtype.name}")
    if not weights.dtype.is_floating:
        raise ValueError(f"{name}.route: weights must be float, got {weights.dtype.name}")
    if experts.shape.rank != 2 or not weights.shape.is_compatible_with(experts.shape):
        raise ValueError(
            f"{name}.route: experts and weights must both be [T, K], got the shapes "
            f"{experts.shape} and {weights.shape}"
        )
    experts, total = global_expert_ids(tf.cast(experts, tf.int32), num_experts, groups)
    return assign_tokens(experts, weights, total, static_shapes())
