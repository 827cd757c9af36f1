"""Sends rows to the devices of their experts, and the results back.

Axes: R replicas, E experts (or groups, if whole groups are sharded), E_r experts on this replica,
T tokens, A assignments, P rows that are sent to each replica (the maximum over all pairs of
replicas), D model.

Rows are sent as a tensor `[R, P, D]`: padding makes all parts equal, and no row is lost.
"""

import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.distribute.shards import shard_bounds
from tfmoe.ops.assignments import Assignments, assign_tokens, permute
from tfmoe.ops.padded_rows import equal_parts, taken
from tfmoe.ops.segments import segment_ids


def exchange(assignments):
    """Returns the exchange for assignments: `Local` if all experts are on this device, else
    `AllToAll`.

    Args:
        assignments: `Assignments` of this replica's tokens to all experts.
    """
    return AllToAll(assignments) if collectives.shards_experts() else local(assignments)


def local(assignments):
    """The exchange for rows that are on the device of their experts: `EqualParts` for static
    assignments with a maximum for the rows of an expert, else `Local`.

    Args:
        assignments: `Assignments` of the tokens on this device to its experts.
    """
    is_limited = assignments.is_static and assignments.max_rows is not None
    return EqualParts(assignments) if is_limited else Local(assignments)


class Local:
    """The exchange if all experts are on this device: it only sorts rows by expert.

    Static assignments have no shape that depends on values: then all rows are computed, those of no
    expert too.

    Args:
        assignments: `Assignments` of the T tokens.

    Attributes:
        counts: `[E]` int32, the rows of each expert.
        rows_per_expert: `[]` int32 if all experts have the same number of rows; else `None`.
        is_static: whether the assignments are static.
        is_local: whether the rows stay on this device.
    """

    is_local = True

    def __init__(self, assignments):
        self.assignments = assignments
        self.counts = assignments.counts
        self.rows_per_expert = assignments.rows_per_expert
        self.is_static = assignments.is_static

    def row_mask(self):
        """`[A]` bool, the rows of `dispatch_kept` that belong to an expert; `None` if all do."""
        return self.assignments.is_kept() if self.is_static else None

    def dispatch(self, x):
        """Copies `[T, D]` tokens to rows sorted by expert. Those of no expert are last."""
        return self.assignments.dispatch(x)

    def dispatch_kept(self, x):
        """Copies `[T, D]` tokens to the rows that experts compute: those of no expert are cut off,
        unless the assignments are static.
        """
        rows = self.dispatch(x)
        if self.is_static or self.rows_per_expert is not None:
            return rows
        return rows[: self.assignments.num_kept()]

    def weights(self):
        """The weight of each row."""
        return self.assignments.weights

    def combine(self, y):
        """Computes the weighted sum of each token's rows, `[T, D]`.

        Args:
            y: results for the rows of `dispatch` or `dispatch_kept`; 0 in rows that no expert
                computed.
        """
        return self.assignments.combine(self._with_dropped(y))

    def sum_by_token(self, values):
        """Sums the values of each token, `[T]`.

        Args:
            values: one for each row of `dispatch_kept`.
        """
        return self.assignments.sum_by_token(self._with_dropped(values))

    def _with_dropped(self, rows):
        if self.is_static or self.rows_per_expert is not None:  # then all rows are computed
            return rows
        return _pad_rows(rows, tf.size(self.assignments.tokens))


class EqualParts:
    """`Local` for static assignments: each expert gets a part of C rows, those after its own are 0.

    No shape depends on values, and one batched product computes all experts.

    Args:
        assignments: static `Assignments` of the T tokens, with `max_rows`.

    Attributes:
        counts: `[E]` int32, the rows of each expert that are not padding.
        rows_per_expert: C.
        is_static, is_local: true.
    """

    is_static = is_local = True

    def __init__(self, assignments):
        self.assignments = assignments
        self.counts = assignments.counts
        self.rows_per_expert = tf.maximum(assignments.max_rows, 1)
        num_rows = tf.size(assignments.tokens)
        self.padded = equal_parts(assignments.counts, num_rows, self.rows_per_expert)

    def row_mask(self):
        return tf.reshape(self.padded.is_row, [-1])

    def dispatch(self, x):
        tokens = tf.gather(self.assignments.tokens, self.padded.rows)

        @tf.custom_gradient
        def gather(x):
            parts = taken(x, tokens, self.padded.is_row)
            return _flat(parts), lambda dy: self.sum_by_token(dy)

        return gather(x)

    def dispatch_kept(self, x):
        return self.dispatch(x)

    def weights(self):
        return self._pad(self.assignments.weights)

    def combine(self, y):
        return self.assignments.combine(self._unpad(y))

    def sum_by_token(self, values):
        return self.assignments.sum_by_token(self._unpad(values))

    def _pad(self, rows):
        return _flat(self.padded.pad(rows))

    def _unpad(self, rows):
        num_experts = self.counts.shape[0]
        shape = tf.concat([[num_experts, self.rows_per_expert], tf.shape(rows)[1:]], axis=0)
        parts = tf.ensure_shape(tf.reshape(rows, shape), [num_experts, None, *rows.shape[1:]])
        return self.padded.unpad(parts)


class AllToAll:
    """The exchange if the experts are sharded over the replicas of a `MixedStrategy`.

    All replicas must create one at the same point of the program. Attributes and methods are those
    of `Local`, with `counts` `[E_r]`.
    """

    is_static = is_local = False

    def __init__(self, assignments):
        self.replicas, replica = collectives.num_replicas(), collectives.replica_id()
        bounds = shard_bounds(assignments.counts.shape[0], self.replicas)
        begin, end = bounds[replica]
        counts = assignments.replica_counts
        if counts is None:
            counts = collectives.all_gather(assignments.counts)  # [R, E]
        to_replica = tf.stack([tf.reduce_sum(counts[:, b:e], axis=1) for b, e in bounds], axis=1)
        num_sent = tf.maximum(tf.reduce_max(to_replica), 1)  # P
        self.num_tokens = assignments.num_tokens
        self.sent = _send_order(assignments, to_replica[replica], num_sent)
        received_counts = counts[:, begin:end]  # [R, E_r]
        padding = num_sent - tf.reduce_sum(received_counts, axis=1, keepdims=True)
        lengths = tf.reshape(tf.concat([received_counts, padding], axis=1), [-1])
        experts = segment_ids(lengths) % (end - begin + 1)
        ones = tf.ones([tf.size(experts), 1])
        self.received = assign_tokens(experts[:, None], ones, end - begin)
        self.counts = self.received.counts
        self.rows_per_expert = assignments.rows_per_expert

    def row_mask(self):
        return None

    def dispatch(self, x):
        return self._sorted(self._all_to_all(self.sent.dispatch(_at_least_one_row(x))))

    def dispatch_kept(self, x):
        return self.dispatch(x)[: self.received.num_kept()]

    def weights(self):
        return self._sorted(self._all_to_all(self.sent.weights))

    def combine(self, y):
        return self.sent.combine(self._returned(y))[: self.num_tokens]

    def sum_by_token(self, values):
        return self.sent.sum_by_token(self._returned(values))[: self.num_tokens]

    def _sorted(self, rows):
        return permute(rows, self.received.tokens, self.received.slots[:, 0])

    def _returned(self, rows):
        """Sends rows back to the replica of their tokens, in the order of `sent`."""
        rows = _pad_rows(rows, tf.size(self.received.tokens))
        rows = self._all_to_all(permute(rows, self.received.slots[:, 0], self.received.tokens))
        return _pad_rows(rows, tf.size(self.sent.tokens))

    def _all_to_all(self, rows):
        """Sends an equal part of the rows to each replica, without the dropped rows at the end."""
        width = rows.shape[1:]
        sent = rows[: tf.size(self.received.tokens)]
        received = collectives.all_to_all(tf.reshape(sent, [self.replicas, -1, *width]))
        return tf.reshape(received, [-1, *width])


def _send_order(assignments, counts, num_sent):
    """Sorts the assignments in the order in which their rows are sent, `[R·P]`, followed by the
    dropped assignments. Padding has token 0 and weight 0.

    Args:
        assignments: `Assignments` of the T tokens.
        counts: `[R]` int32, the rows for each replica.
        num_sent: P.
    """
    starts = tf.cumsum(counts, exclusive=True)
    offsets = tf.range(num_sent)[None]
    sources = tf.reshape(tf.where(offsets < counts[:, None], starts[:, None] + offsets, -1), [-1])
    num_kept = tf.reduce_sum(counts)
    slots = assignments.slots
    if slots is not None:
        replica = segment_ids(counts)
        kept_indices = replica * num_sent + tf.range(num_kept) - tf.gather(starts, replica)
        num_dropped = tf.size(assignments.tokens) - num_kept
        dropped_indices = tf.size(sources) + tf.range(num_dropped)
        slots = tf.gather(tf.concat([kept_indices, dropped_indices], axis=0), slots)
        sources = tf.concat([sources, num_kept + tf.range(num_dropped)], axis=0)
        num_padding = tf.cast(tf.equal(assignments.num_tokens, 0), tf.int32)
        slots = tf.pad(slots, [[0, num_padding], [0, 0]])

    def reorder(values):
        return tf.gather(tf.pad(values, [[1, 0]]), sources + 1)  # source -1 is padding, 0

    return Assignments(
        tokens=reorder(assignments.tokens),
        weights=reorder(assignments.weights),
        counts=assignments.counts,
        num_tokens=tf.maximum(assignments.num_tokens, 1),
        slots=slots,
    )


def _pad_rows(rows, num_rows):
    """Pads rows with rows of zeros to `num_rows`."""
    padding = [[0, num_rows - tf.shape(rows)[0]]]
    return tf.pad(rows, padding + [[0, 0]] * (rows.shape.rank - 1))


def _flat(parts):
    """`[E, C, ...]` to `[E·C, ...]`."""
    shape = tf.concat([[-1], tf.shape(parts)[2:]], axis=0)
    return tf.ensure_shape(tf.reshape(parts, shape), [None, *parts.shape[2:]])


def _at_least_one_row(x):
    return tf.pad(x, [[0, tf.cast(tf.equal(tf.shape(x)[0], 0), tf.int32)], [0, 0]])
