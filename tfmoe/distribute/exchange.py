"""How rows get to the devices that hold their experts, and how the results come back.

Axes: R replicas, E experts (or groups, where whole groups are sharded), E_r of them on this
replica, T tokens, A assignments, P rows that are sent to each replica (the most that any replica
has for another), D model.

Rows travel in a tensor `[R, P, D]`: padding makes all parts equal, and no row is lost.
"""

import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.distribute.shards import shard_bounds
from tfmoe.ops.assignments import Assignments, assign_tokens, permute
from tfmoe.ops.segments import segment_ids


def exchange(assignments):
    """The way of rows to their experts: `Local` where all experts are on this device, else
    `AllToAll`.

    Args:
        assignments: `Assignments` of this replica's tokens to all experts.
    """
    return AllToAll(assignments) if collectives.shards_experts() else Local(assignments)


class Local:
    """All experts are on this device: rows are sorted by expert.

    Attributes:
        counts: `[E]` int32, the rows of each expert.
        rows_per_expert: `[]` int32, if all experts have equally many rows; else `None`.
    """

    def __init__(self, assignments):
        self.assignments = assignments
        self.counts = assignments.counts
        self.rows_per_expert = assignments.rows_per_expert

    def num_rows(self):
        """`[]` int32, the number of rows that experts compute."""
        return self.assignments.num_kept()

    def dispatch(self, x):
        """`[T, D]` tokens to rows sorted by expert; those from `num_rows()` on mean nothing."""
        return self.assignments.dispatch(x)

    def dispatch_kept(self, x):
        """`[num_rows(), D]`: the rows that experts compute alone."""
        rows = self.dispatch(x)
        return rows if self.rows_per_expert is not None else rows[: self.num_rows()]

    def weights(self):
        """The weight of each row."""
        return self.assignments.weights

    def combine(self, y):
        """`[T, D]`, the weighted sum of each token's rows.

        Args:
            y: of the rows that `dispatch` gives, or of those of `dispatch_kept`; 0 in rows that no
                expert computed.
        """
        if self.rows_per_expert is None:  # else there are no others
            y = _with_rows(y, tf.size(self.assignments.tokens))
        return self.assignments.combine(y)

    def sum_by_token(self, values):
        """`[T]`, the sum of each token's values.

        Args:
            values: `[num_rows()]`.
        """
        return self.assignments.sum_by_token(_with_rows(values, tf.size(self.assignments.tokens)))


class AllToAll:
    """Experts are sharded over the replicas of a `MixedStrategy`. All replicas must make one
    together. Attributes and methods are those of `Local`, `counts` being `[E_r]`.
    """

    def __init__(self, assignments):
        self.replicas, replica = collectives.num_replicas(), collectives.replica_id()
        bounds = shard_bounds(assignments.counts.shape[0], self.replicas)
        begin, end = bounds[replica]
        counts = collectives.all_gather(assignments.counts)  # [R, E]
        to_replica = tf.stack([tf.reduce_sum(counts[:, b:e], axis=1) for b, e in bounds], axis=1)
        num_sent = tf.maximum(tf.reduce_max(to_replica), 1)  # P
        self.num_tokens = assignments.num_tokens
        self.sent = _arranged(assignments, to_replica[replica], num_sent)
        arriving = counts[:, begin:end]  # [R, E_r]
        padding = num_sent - tf.reduce_sum(arriving, axis=1, keepdims=True)
        runs = tf.reshape(tf.concat([arriving, padding], axis=1), [-1])
        experts = segment_ids(runs) % (end - begin + 1)
        unweighted = tf.ones([tf.size(experts), 1])
        self.arrived = assign_tokens(experts[:, None], unweighted, end - begin)
        self.counts = self.arrived.counts
        self.rows_per_expert = assignments.rows_per_expert

    def num_rows(self):
        return self.arrived.num_kept()

    def dispatch(self, x):
        return self._sorted(self._all_to_all(self.sent.dispatch(_at_least_one_row(x))))

    def dispatch_kept(self, x):
        return self.dispatch(x)[: self.num_rows()]

    def weights(self):
        return self._sorted(self._all_to_all(self.sent.weights))

    def combine(self, y):
        return self.sent.combine(self._returned(y))[: self.num_tokens]

    def sum_by_token(self, values):
        return self.sent.sum_by_token(self._returned(values))[: self.num_tokens]

    def _sorted(self, rows):
        return permute(rows, self.arrived.tokens, self.arrived.slots[:, 0])

    def _returned(self, rows):
        """Rows back on the replica of their tokens, as `sent` has them."""
        rows = _with_rows(rows, tf.size(self.arrived.tokens))
        rows = self._all_to_all(permute(rows, self.arrived.slots[:, 0], self.arrived.tokens))
        return _with_rows(rows, tf.size(self.sent.tokens))

    def _all_to_all(self, rows):
        """Sends an equal part of the rows to each replica. Those behind, dropped, do not travel."""
        width = rows.shape[1:]
        travelling = rows[: tf.size(self.arrived.tokens)]
        arrived = collectives.all_to_all(tf.reshape(travelling, [self.replicas, -1, *width]))
        return tf.reshape(arrived, [-1, *width])


def _arranged(assignments, own, num_sent):
    """The assignments in the order in which their rows are sent, `[R·P]`, with the dropped ones
    behind. Padding is of token 0, with a weight of 0.

    Args:
        assignments: `Assignments` of the T tokens.
        own: `[R]` int32, rows for each replica.
        num_sent: P.
    """
    begins = tf.cumsum(own, exclusive=True)
    within = tf.range(num_sent)[None]
    row_at = tf.reshape(tf.where(within < own[:, None], begins[:, None] + within, -1), [-1])
    num_kept = tf.reduce_sum(own)
    slots = assignments.slots
    if slots is not None:
        replica = segment_ids(own)
        places = replica * num_sent + tf.range(num_kept) - tf.gather(begins, replica)
        num_dropped = tf.size(assignments.tokens) - num_kept
        behind = tf.size(row_at) + tf.range(num_dropped)
        slots = tf.gather(tf.concat([places, behind], axis=0), slots)
        row_at = tf.concat([row_at, num_kept + tf.range(num_dropped)], axis=0)
        missing = tf.cast(tf.equal(assignments.num_tokens, 0), tf.int32)
        slots = tf.pad(slots, [[0, missing], [0, 0]])

    def arranged(values):
        return tf.gather(tf.pad(values, [[1, 0]]), row_at + 1)

    return Assignments(
        tokens=arranged(assignments.tokens),
        weights=arranged(assignments.weights),
        counts=assignments.counts,
        num_tokens=tf.maximum(assignments.num_tokens, 1),
        slots=slots,
    )


def _with_rows(rows, number):
    """Rows with rows of zeros behind: `number` in all."""
    missing = [[0, number - tf.shape(rows)[0]]]
    return tf.pad(rows, missing + [[0, 0]] * (rows.shape.rank - 1))


def _at_least_one_row(x):
    return tf.pad(x, [[0, tf.cast(tf.equal(tf.shape(x)[0], 0), tf.int32)], [0, 0]])
