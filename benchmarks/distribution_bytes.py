"""The bytes that a device sends to others in a training step with sharded experts.

Symbols: R devices, D model. The step is that of `distributed_training.py`.

Columns, averaged over the devices and `--steps` steps:
    rows            for experts: rows that left for another device × D × 4 bytes × 4 ways (there and
                    back, forward and backward)
    predicted       the same by `tfmoe.analysis.traffic.traffic_of`, as `tfmoe describe` prints it
    ratio           rows / predicted
    padded          what went through the all-to-all operations for these rows: all parts are as
                    large as the largest
    padding         padded / rows
    other           everything else that `tfmoe.distribute` sends: counts, gate weights and
                    candidates; importance and load; norms and losses
    gradients       for the sum of the gradients of replicated weights. A ring's share of each:
                    2·(R-1)/R of its size; where a gradient is some rows of a table (embedding and
                    sampled softmax), R-1 times these rows, which are gathered

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
from tfmoe.layers import mixing, routed_experts

WAYS = 4
# What a device sends to others in a ring, of each byte that it gives to a collective operation.
SENT = {
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
            # In a process of its own, which divides the CPU into this number of devices.
            with ProcessPoolExecutor(1, context) as process:
                cases.append(process.submit(count, mixture, devices, options.steps).result())
    report(cases, COLUMNS, options.json, steps=options.steps)


def parse_arguments():
    parser = options_of(__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=[2, 4], metavar="R")
    parser.add_argument("--steps", type=int, default=3, help="steps to count in; default: 3")
    options = parser.parse_args()
    if min(options.devices) < 2:
        parser.error("--devices must be at least 2: a single device sends nothing")
    return options


def count(mixture, devices, steps):
    """The row of the table for one mixture and number of devices."""
    trainer = Trainer(mixture, strategy_of(devices))
    sent = Sent(devices)
    with sent.counting():
        trainer.model.make_train_function(force=True)
        for _ in range(steps):
            trainer.step()
    (layer,) = mixtures_of(trainer.model).values()
    number = steps * devices
    size = tf.as_dtype(layer.compute_dtype).size
    rows = WAYS * sent.rows_of_others() / number * D * size
    predicted = traffic_of(layer, D, POSITIONS // devices, devices)["bytes_sent"]
    padded, other, num_exchanges = sent.padded_and_other()
    assert num_exchanges == WAYS * number, num_exchanges
    return {
        "mixture": mixture,
        "R": devices,
        "rows": float(rows),
        "predicted": float(predicted),
        "ratio": float(rows / predicted),
        "padded": float(padded / number),
        "padding": float(padded / number / rows),
        "other": float(other / number),
        "gradients": float(sum(sent.gradients) / number),
    }


class Sent:
    """What all replicas send in the steps that run within `counting()`.

    Attributes:
        own_rows: `(replica, [R] rows for each replica)` of every replica and step.
        calls: `(name, shape, bytes of an element)` of every collective operation.
        gradients: bytes of every sum of gradients.
    """

    def __init__(self, devices):
        self.devices = devices
        self.own_rows, self.calls, self.gradients = [], [], []

    @contextlib.contextmanager
    def counting(self):
        """Counts in graphs that are traced in here, whenever they run."""
        exchange, collective = routed_experts.exchange, tensorflow_internals.collective
        all_reduce = tf.distribute.ReplicaContext.all_reduce

        def counting_exchange(assignments):
            counts = assignments.counts
            replica, bounds = collectives.replica_id(), shard_bounds(counts.shape[0], self.devices)
            own = tf.stack([tf.reduce_sum(counts[begin:end]) for begin, end in bounds])
            note(lambda own: self.own_rows.append((replica, own.copy())), own)
            return exchange(assignments)

        def counting_collective(name, x, found):
            size = x.dtype.size
            note(lambda shape: self.calls.append((name, tuple(shape), size)), tf.shape(x))
            return collective(name, x, found)

        def counting_all_reduce(context, reduce_op, values, options=None):
            for each in tf.nest.flatten(values):
                self._note_gradient(each)
            return all_reduce(context, reduce_op, values, options)

        with (
            mock.patch.object(routed_experts, "exchange", counting_exchange),
            mock.patch.object(mixing, "exchange", counting_exchange),
            mock.patch.object(tensorflow_internals, "collective", counting_collective),
            mock.patch.object(tf.distribute.ReplicaContext, "all_reduce", counting_all_reduce),
        ):
            yield

    def _note_gradient(self, gradient):
        if isinstance(gradient, tf.IndexedSlices):
            share, parts = SENT["gather"](self.devices), (gradient.values, gradient.indices)
        else:
            share, parts = SENT["sum"](self.devices), (gradient,)
        size = sum(part.dtype.size * tf.size(part) for part in parts)
        note(lambda size: self.gradients.append(share * size), size)

    def rows_of_others(self):
        """The number of rows that left for another device, one way."""
        return sum(own.sum() - own[replica] for replica, own in self.own_rows)

    def padded_and_other(self):
        """Bytes that went through the all-to-all operations of rows; bytes of all other collective
        operations; the number of the former operations.
        """
        # Those of rows have one size: of a step's rows, as many for each device as the most that
        # any has for another.
        steps = [
            self.own_rows[i : i + self.devices] for i in range(0, len(self.own_rows), self.devices)
        ]
        of_rows = {self.devices * D * max(own.max() for _, own in step) for step in steps}
        padded = other = num_exchanges = 0
        for name, shape, size in self.calls:
            sent = SENT[name](self.devices) * size * np.prod(shape)
            if name == "exchange" and np.prod(shape) in of_rows:
                padded += sent
                num_exchanges += 1
            else:
                other += sent
        return padded, other, num_exchanges


def note(function, tensor):
    """Calls a function with a tensor's value whenever the graph runs."""

    def call(value):
        function(value)
        return np.int32(0)

    tf.numpy_function(call, [tensor], tf.int32)


if __name__ == "__main__":
    main()
