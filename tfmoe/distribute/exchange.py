"""Sends tokens to the devices that hold their experts, and brings the results back.

Axes: R replicas, E experts (or groups, where whole groups are sharded), E_r of them on this one,
T tokens, K selected per token, P rows that are sent to each replica: the most that any replica has
for another, D model.

Rows travel in a tensor `[R, P, D]`: padding makes all parts equal, and nothing is dropped.
"""

from typing import NamedTuple

import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.distribute.shards import shard_bounds
from tfmoe.ops import dispatch
from tfmoe.ops.dispatch import Pairs, Plan


class Exchange(NamedTuple):
    """How the tokens of one replica travel; with a single one they stay, and only are sorted.

    Attributes:
        plan: `tfmoe.ops.dispatch.Plan` or `Pairs` of this replica's tokens: its rows are those that
            are sent, `[R·P, D]`.
        gates: the weights of the assignments, arranged as `plan` has them.
        counts: `[E_r]` int32, rows that this replica's experts get.
        counts_of_all: `[E]` int32, rows that every expert gets.
        arrivals: `Plan` that sorts what arrived by expert; `None` for a single replica.
    """

    plan: Plan | Pairs
    gates: tf.Tensor
    counts: tf.Tensor
    counts_of_all: tf.Tensor
    arrivals: Plan | None = None

    def dispatch(self, tokens):
        """`[T, D]` tokens to rows sorted by this replica's experts. Those from `sum(counts)` on are
        padding, and belong to none.
        """
        if self.arrivals is None:
            return dispatch.dispatch(tokens, self.plan)
        return self._send(dispatch.dispatch(_at_least_one_row(tokens), self.plan))

    def dispatch_gates(self):
        """The gate's weight of each row that `dispatch` gives; with several replicas only."""
        gates = self.gates
        if isinstance(self.plan, Plan):
            gates = tf.gather(tf.reshape(gates, [-1]), self.plan.order)
        return self._send(gates)

    def combine(self, rows, num_tokens):
        """The way back: the weighted sum of each token's rows, `[T, D]`.

        Args:
            rows: as `dispatch` gives them; 0 for padding.
            num_tokens: T.
        """
        gates = tf.cast(self.gates, rows.dtype)
        if self.arrivals is None:
            return dispatch.combine(rows, gates, self.plan)
        rows = _all_to_all(permute(rows, self.arrivals.inverse[:, 0], self.arrivals.order))
        if isinstance(self.plan, Plan):  # dropped assignments lie behind, and give 0
            num_dropped = tf.size(self.plan.order) - tf.shape(rows)[0]
            rows = tf.pad(rows, [[0, num_dropped], [0, 0]])
        return dispatch.combine(rows, gates, self.plan)[:num_tokens]

    def sums(self, values, num_tokens):
        """`[T]`: the unweighted sum of what each token's rows have, of several replicas.

        Args:
            values: `[A]` of the rows that arrived, padding left out.
            num_tokens: T.
        """
        padding = tf.size(self.arrivals.order) - tf.size(values)
        unweighted = self._replace(gates=tf.ones_like(self.gates))
        rows = tf.pad(tf.cast(values, self.gates.dtype), [[0, padding]])
        return unweighted.combine(rows[:, None], num_tokens)[:, 0]

    def _send(self, rows):
        rows = rows[: tf.size(self.arrivals.order)]
        return permute(_all_to_all(rows), self.arrivals.order, self.arrivals.inverse[:, 0])


def plan_exchange(plan, gates, num_experts):
    """Agrees with the other replicas on what is sent where.

    Args:
        plan: a `Plan` or `Pairs` of this replica's tokens, for all experts.
        gates: the weights of its assignments or pairs.
        num_experts: E, a Python integer.

    Returns:
        An `Exchange`.
    """
    replicas = collectives.num_replicas()
    if replicas == 1:
        return Exchange(plan, gates, plan.counts, plan.counts)
    bounds = shard_bounds(num_experts, replicas)
    begin, end = bounds[collectives.replica_id()]
    counts = collectives.all_gather(tf.ensure_shape(plan.counts, [num_experts]))  # [R, E]
    to_replica = tf.stack([tf.reduce_sum(counts[:, b:e], axis=1) for b, e in bounds], axis=1)
    num_sent = tf.reduce_max(to_replica)  # P
    arrange = _arranged_pairs if isinstance(plan, Pairs) else _arranged_plan
    plan, gates = arrange(plan, gates, to_replica[collectives.replica_id()], num_sent)

    arriving = counts[:, begin:end]  # [R, E_r]
    padding = num_sent - tf.reduce_sum(arriving, axis=1, keepdims=True)
    runs = tf.concat([arriving, padding], axis=1)
    kinds = tf.tile(tf.range(end - begin + 1), [replicas])
    experts = tf.repeat(kinds, tf.reshape(runs, [-1]))
    arrivals = dispatch.plan(experts[:, None], end - begin)
    return Exchange(plan, gates, arrivals.counts, tf.reduce_sum(counts, axis=0), arrivals)


def _places(own, num_sent):
    """Where the rows, sorted by expert, lie among those that are sent.

    Args:
        own: `[R]` int32, rows for each replica.
        num_sent: P.

    Returns:
        `[A]` int32, the place of each row; `[R·P]` int32, the row at each place, -1 for padding.
    """
    begins = tf.cumsum(own, exclusive=True)
    replica = tf.repeat(tf.range(own.shape[0]), own)
    places = replica * num_sent + tf.range(tf.reduce_sum(own)) - tf.gather(begins, replica)
    within = tf.range(num_sent)[None]
    row_at = tf.where(within < own[:, None], begins[:, None] + within, -1)
    return places, tf.reshape(row_at, [-1])


def _arranged_plan(plan, gates, own, num_sent):
    """A `Plan` of the rows as they are sent; padding is of assignment 0, and no result of it is
    used. A replica without tokens gets one, all of whose assignments are dropped.
    """
    places, row_at = _places(own, num_sent)
    num_selected = tf.shape(plan.inverse)[1]
    missing = [[0, tf.cast(tf.equal(tf.size(plan.inverse), 0), tf.int32)], [0, 0]]
    dropped = plan.order[tf.size(places) :]
    dropped = tf.concat([dropped, tf.range(missing[0][1] * num_selected)], axis=0)
    order = tf.concat([_gather(plan.order, row_at), dropped], axis=0)
    behind = tf.size(row_at) + tf.range(tf.size(dropped))
    inverse = tf.pad(plan.inverse, missing)
    inverse += missing[0][1] * tf.range(num_selected)
    inverse = tf.gather(tf.concat([places, behind], axis=0), inverse)
    return Plan(order, inverse, plan.counts), tf.pad(gates, missing)


def _arranged_pairs(pairs, gates, own, num_sent):
    """`Pairs` of the rows as they are sent; padding is of token 0, with a weight of 0."""
    _, row_at = _places(own, num_sent)
    tokens = _gather(tf.reshape(pairs.tokens, [-1]), row_at)
    gates = _gather(tf.reshape(gates, [-1]), row_at)
    return Pairs(tokens, pairs.counts, tf.maximum(pairs.num_tokens, 1)), gates


def _gather(x, index):
    """`x[index]`, 0 for an index of -1."""
    return tf.gather(tf.pad(x, [[1, 0]]), index + 1)


def _at_least_one_row(x):
    return tf.pad(x, [[0, tf.cast(tf.equal(tf.shape(x)[0], 0), tf.int32)], [0, 0]])


def permute(x, order, inverse):
    """`x[order]` along the first axis, with a gather for its gradient."""

    @tf.custom_gradient
    def gather(x):
        return tf.gather(x, order), lambda dy: tf.gather(dy, inverse)

    return gather(x)


def _all_to_all(rows):
    """Cuts rows into R equal parts, one for each replica, and exchanges them."""
    parts = tf.concat([[collectives.num_replicas(), -1], tf.shape(rows)[1:]], axis=0)
    parts = tf.where(tf.size(rows) == 0, tf.concat([parts[:1], [0], parts[2:]], axis=0), parts)
    return tf.reshape(collectives.all_to_all(tf.reshape(rows, parts)), tf.shape(rows))
