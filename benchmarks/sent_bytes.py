"""Counts the bytes that devices send in training steps under a `MixedStrategy`.

Symbols: R devices.

    counter = Counter(devices, width)
    with counter.counting():
        …  # trace and run training steps
    totals, _ = counter.totals()

The counted bytes are those of the inputs of the collective operations times what a device of a ring
sends per byte: `2·(R-1)/R` for a sum, `(R-1)/R` for all-to-all, `R-1` for a gather.
"""

import contextlib
import threading
from unittest import mock

import numpy as np
import tensorflow as tf

from tfmoe.distribute import collectives, keras_optimizer, tensorflow_internals
from tfmoe.distribute.shards import shard_bounds
from tfmoe.layers import mixing, routed

TRANSFERS = 4  # of a row: to its expert and back, forward and backward
# Bytes that a device sends in a ring, per byte of input of a collective operation.
SENT_PER_BYTE = {
    "sum": lambda devices: 2 * (devices - 1) / devices,
    "gather": lambda devices: devices - 1,
    "exchange": lambda devices: (devices - 1) / devices,
}


class Counter:
    """Counts what the replicas of this process send.

    Args:
        devices: R.
        width: D, numbers in a row that is sent to an expert.

    Attributes:
        rows: `(replica, [R] rows for each replica)` of every replica, mixture and step.
        calls: `(kind, name, shape, bytes of an element)` of every collective operation; the kind is
            `"dense"` or `"tables"` for gradients, else `"other"`.
    """

    def __init__(self, devices, width):
        self.devices, self.width = devices, width
        self.rows, self.calls = [], []
        self._tracing = threading.local()

    @contextlib.contextmanager
    def counting(self):
        """Graphs that are traced in this context are counted whenever they run."""
        with contextlib.ExitStack() as stack:
            for owner, name, replacement in self._replacements():
                stack.enter_context(mock.patch.object(owner, name, replacement))
            yield

    def _replacements(self):
        exchange, collective = routed.exchange, tensorflow_internals.collective
        all_reduce = tf.distribute.ReplicaContext.all_reduce
        sum_tables = keras_optimizer.sum_over_replicas

        def counting_exchange(assignments):
            counts = assignments.counts
            replica, bounds = collectives.replica_id(), shard_bounds(counts.shape[0], self.devices)
            rows = tf.stack([tf.reduce_sum(counts[begin:end]) for begin, end in bounds])
            call_with_value(lambda rows: self.rows.append((replica, rows.copy())), rows)
            return exchange(assignments)

        def counting_collective(name, x, context):
            self._count(getattr(self._tracing, "kind", "other"), name, x)
            return collective(name, x, context)

        def counting_all_reduce(context, reduce_op, values, options=None):
            for gradient in tf.nest.flatten(values):
                self._count("dense", "sum", gradient)
            return all_reduce(context, reduce_op, values, options)

        def counting_tables(gradients):
            self._tracing.kind = "tables"
            try:
                return sum_tables(gradients)
            finally:
                self._tracing.kind = "other"

        return [
            (routed, "exchange", counting_exchange),
            (mixing, "exchange", counting_exchange),
            (tensorflow_internals, "collective", counting_collective),
            (tf.distribute.ReplicaContext, "all_reduce", counting_all_reduce),
            (keras_optimizer, "sum_over_replicas", counting_tables),
        ]

    def _count(self, kind, name, x):
        size = x.dtype.size
        call_with_value(
            lambda shape: self.calls.append((kind, name, tuple(shape), size)), tf.shape(x)
        )

    def rows_sent(self):
        """The number of rows sent to other devices in one transfer, in all steps."""
        return sum(rows.sum() - rows[replica] for replica, rows in self.rows)

    def totals(self):
        """Bytes of all devices and steps, by kind: `rows` (the all-to-all operations of rows, with
        padding), `dense` and `tables` (gradients), and `other`; and the number of all-to-all
        operations of rows.
        """
        # All-to-all operations of rows are recognised by their size: in a step, all parts are as
        # large as the largest.
        steps = [self.rows[i : i + self.devices] for i in range(0, len(self.rows), self.devices)]
        largest = {max(rows.max() for _, rows in step) for step in steps}
        sizes = {self.devices * self.width * rows for rows in largest}
        totals = dict.fromkeys(("rows", "dense", "tables", "other"), 0.0)
        num_exchanges = 0
        for kind, name, shape, size in self.calls:
            if kind == "other" and name == "exchange" and np.prod(shape) in sizes:
                kind = "rows"
                num_exchanges += 1
            totals[kind] += SENT_PER_BYTE[name](self.devices) * size * np.prod(shape)
        return totals, num_exchanges


def call_with_value(function, tensor):
    """Calls a function with a tensor's value whenever the graph runs."""

    def call(value):
        function(value)
        return np.int32(0)

    tf.numpy_function(call, [tensor], tf.int32)
