"""Counts the bytes that a device sends to others in a training step with sharded experts.

Symbols: R devices, D model. `distributed_training.py` has the step.

Columns, averaged over the devices and `--steps` steps:
    rows            of experts: rows sent to other devices × D × 4 bytes × 4 transfers (dispatch and
                    combine, forward and backward)
    predicted       the same as computed by `tfmoe.analysis.traffic.traffic_of`, which
                    `tfmoe describe` prints
    ratio           rows / predicted
    padded          bytes of the all-to-all operations for these rows, padded to the largest part
    padding         padded / rows
    other           everything else that `tfmoe.distribute` sends: counts, gate weights and
                    candidates; importance and load; norms and losses
    gradients       the all-reduce of the gradients of replicated weights, in a ring: 2·(R-1)/R of
                    the size of a gradient; for sparse gradients (embedding and sampled softmax),
                    R-1 times their rows, which are gathered

    python benchmarks/distribution_bytes.py            # all cases: 3 minutes of processor time
    python benchmarks/distribution_bytes.py --mixtures flat --devices 2
    python benchmarks/distribution_bytes.py --json
"""

import contextlib
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from unittest import mock

import numpy as np
import tensorflow as tf
from distributed_training import POSITIONS, D, Trainer, options_of, report, strategy_of

from tfmoe.analysis.traffic import traffic_of
from tfmoe.distribute import collectives, tensorflow_internals
from tfmoe.distribute.shards import shard_bounds
from tfmoe.inspection import mixtures_of
from tfmoe.layers import mixing, routed

TRANSFERS = 4
# Bytes that a device sends in a ring, per byte of input of a collective operation.
SENT_PER_BYTE = {
    "sum": lambda devices: 2 * (devices - 1) / devices,
    "gather": lambda devices: devices - 1,
    "exchange": lambda devices: (devices - 1) / devices,
}
COLUMNS = {
    "mixture": "",
    "R": "",
    "rows": ",.0f",
    "predicted": ",.0f",
    "ratio": ".4f",
    "padded": ",.0f",
    "padding": ".3f",
    "other": ",.0f",
    "gradients": ",.0f",
}


def main():
    options = parse_arguments()
    context = multiprocessing.get_context("spawn")
    cases = []
    for mixture in options.mixtures:
        for devices in options.devices:
            print(f"{mixture}, {devices} devices …", file=sys.stderr)
            # In a new process, which creates this number of virtual devices.
            with ProcessPoolExecutor(1, context) as process:
                cases.append(process.submit(count, mixture, devices, options.steps).result())
    report(cases, COLUMNS, options.json, steps=options.steps)


def parse_arguments():
    parser = options_of(__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=[2, 4], metavar="R")
    parser.add_argument("--steps", type=int, default=3, help="steps to average over; default: 3")
    options = parser.parse_args()
    if min(options.devices) < 2:
        parser.error("--devices must be at least 2: a single device sends nothing")
    return options


def count(mixture, devices, steps):
    """The row of the table for one mixture and one number of devices."""
    trainer = Trainer(mixture, strategy_of(devices))
    counter = Counter(devices)
    with counter.counting():
        trainer.model.make_train_function(force=True)
        for _ in range(steps):
            trainer.step()
    (layer,) = mixtures_of(trainer.model).values()
    num_replica_steps = steps * devices
    size = tf.as_dtype(layer.compute_dtype).size
    rows = TRANSFERS * counter.rows_sent() / num_replica_steps * D * size
    predicted = traffic_of(layer, D, POSITIONS // devices, devices)["bytes_sent"]
    padded, other, num_exchanges = counter.padded_and_other()
    assert num_exchanges == TRANSFERS * num_replica_steps, num_exchanges
    return {
        "mixture": mixture,
        "R": devices,
        "rows": float(rows),
        "predicted": float(predicted),
        "ratio": float(rows / predicted),
        "padded": float(padded / num_replica_steps),
        "padding": float(padded / num_replica_steps / rows),
        "other": float(other / num_replica_steps),
        "gradients": float(sum(counter.gradients) / num_replica_steps),
    }


class Counter:
    """Counts what all replicas send.

    Attributes:
        rows: `(replica, [R] rows for each replica)` of every replica and step.
        calls: `(name, shape, bytes of an element)` of every collective operation.
        gradients: bytes of every all-reduce of gradients.
    """

    def __init__(self, devices):
        self.devices = devices
        self.rows, self.calls, self.gradients = [], [], []

    @contextlib.contextmanager
    def counting(self):
        """Graphs that are traced in this context are counted whenever they run."""
        exchange, collective = routed.exchange, tensorflow_internals.collective
        all_reduce = tf.distribute.ReplicaContext.all_reduce

        def counting_exchange(assignments):
            counts = assignments.counts
            replica, bounds = collectives.replica_id(), shard_bounds(counts.shape[0], self.devices)
            rows = tf.stack([tf.reduce_sum(counts[begin:end]) for begin, end in bounds])
            call_with_value(lambda rows: self.rows.append((replica, rows.copy())), rows)
            return exchange(assignments)

        def counting_collective(name, x, context):
            size = x.dtype.size
            call_with_value(
                lambda shape: self.calls.append((name, tuple(shape), size)), tf.shape(x)
            )
            return collective(name, x, context)

        def counting_all_reduce(context, reduce_op, values, options=None):
            for gradient in tf.nest.flatten(values):
                self._count_gradient(gradient)
            return all_reduce(context, reduce_op, values, options)

        with (
            mock.patch.object(routed, "exchange", counting_exchange),
            mock.patch.object(mixing, "exchange", counting_exchange),
            mock.patch.object(tensorflow_internals, "collective", counting_collective),
            mock.patch.object(tf.distribute.ReplicaContext, "all_reduce", counting_all_reduce),
        ):
            yield

    def _count_gradient(self, gradient):
        if isinstance(gradient, tf.IndexedSlices):
            operation, parts = "gather", (gradient.values, gradient.indices)
        else:
            operation, parts = "sum", (gradient,)
        sent = SENT_PER_BYTE[operation](self.devices)
        size = sum(part.dtype.size * tf.size(part) for part in parts)
        call_with_value(lambda size: self.gradients.append(sent * size), size)

    def rows_sent(self):
        """The number of rows sent to other devices in one transfer."""
        return sum(rows.sum() - rows[replica] for replica, rows in self.rows)

    def padded_and_other(self):
        """Bytes of the all-to-all operations of rows; bytes of all other collective operations; the
        number of all-to-all operations of rows.
        """
        # All-to-all operations of rows are recognised by their size: in a step, all parts are as
        # large as the largest.
        steps = [self.rows[i : i + self.devices] for i in range(0, len(self.rows), self.devices)]
        sizes = {self.devices * D * max(rows.max() for _, rows in step) for step in steps}
        padded = other = num_exchanges = 0
        for name, shape, size in self.calls:
            sent = SENT_PER_BYTE[name](self.devices) * size * np.prod(shape)
            if name == "exchange" and np.prod(shape) in sizes:
                padded += sent
                num_exchanges += 1
            else:
                other += sent
        return padded, other, num_exchanges


def call_with_value(function, tensor):
    """Calls a function with a tensor's value whenever the graph runs."""

    def call(value):
        function(value)
        return np.int32(0)

    tf.numpy_function(call, [tensor], tf.int32)


if __name__ == "__main__":
    main()
