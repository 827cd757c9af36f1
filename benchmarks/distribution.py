"""A training step with the experts sharded over R devices, against the same step on one.

Symbols: R devices. The step is that of `distributed_training.py`. The devices are parts of one CPU:
they share its cores, so that R devices together can do no more than one. What R costs is what the
throughput loses.

Each R has a process of its own; their steps take turns. Times are medians over the rounds, ratios
medians over the ratios within a round.

Columns:
    R               devices; `none` is a model without a strategy
    step_ms         median milliseconds of a step; cpu_ms the same for processor time
    words_per_s     positions of the global batch over step_ms
    vs_none, vs_1   throughput relative to no strategy, and to `MixedStrategy` with R = 1
    cpu_vs_none     the same for processor time, which other processes disturb less
    collectives     share of the step that is gone without any collective operation; cpu_collectives
                    the same for processor time

The share is an ablation. Beside the step runs another one of equal shapes in which nothing is sent:
an all-to-all gives each device its own rows back, and sums, those of gradients too, are what a
device has itself. The ablation removes the waiting of devices for one another as well as the work.
A device's experts see only the device's own positions, so their batches differ a little.

    python benchmarks/distribution.py                  # all cases: minutes
    python benchmarks/distribution.py --mixtures flat --devices 2 --rounds 20
    python benchmarks/distribution.py --json
"""

import contextlib
import multiprocessing
import sys
import time
from unittest import mock

import numpy as np
import tensorflow as tf
from distributed_training import POSITIONS, Trainer, options_of, report, strategy_of

from tfmoe.distribute import tensorflow_internals

COLUMNS = {
    "mixture": "",
    "R": "",
    "step_ms": ",.0f",
    "cpu_ms": ",.0f",
    "words_per_s": ",.0f",
    "vs_none": ".2f",
    "vs_1": ".2f",
    "cpu_vs_none": ".2f",
    "collectives": ".1%",
    "cpu_collectives": ".1%",
}


def main():
    options = parse_arguments()
    cases = []
    for mixture in options.mixtures:
        print(f"{mixture} …", file=sys.stderr)
        cases += measure(mixture, options)
    report(cases, COLUMNS, options.json, rounds=options.rounds)


def parse_arguments():
    parser = options_of(__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4], metavar="R")
    parser.add_argument("--rounds", type=int, default=9, help="timed steps of a case; default: 9")
    parser.add_argument(
        "--no-ablation", action="store_true", help="leaves out the share of collectives"
    )
    return parser.parse_args()


def measure(mixture, options):
    """The rows of the table for one mixture, a dictionary for each number of devices."""
    processes = {devices: Process(mixture, devices, options) for devices in (0, *options.devices)}
    keys = [(devices, kind) for devices, process in processes.items() for kind in process.ready()]
    wall = {key: [] for key in keys}
    processor = {key: [] for key in keys}
    for i in range(options.rounds + 1):  # one to warm up
        for devices, kind in keys:
            seconds, processor_seconds = processes[devices].step(kind)
            if i >= 1:
                wall[devices, kind].append(seconds)
                processor[devices, kind].append(processor_seconds)
    for process in processes.values():
        process.end()
    return [case_of(mixture, devices, wall, processor) for devices in processes]


def case_of(mixture, devices, wall, processor):
    """A row of the table.

    Args:
        mixture: key of `MIXTURES`.
        devices: R; 0 for no strategy.
        wall, processor: `{(devices, kind of step): seconds of all rounds}`.
    """

    def ratio(times, one, other):
        return float(np.median(np.divide(times[one], times[other])))

    none, one, whole, alone = (0, "whole"), (1, "whole"), (devices, "whole"), (devices, "alone")
    seconds = float(np.median(wall[whole]))
    case = {
        "mixture": mixture,
        "R": devices or "none",
        "step_ms": 1e3 * seconds,
        "cpu_ms": 1e3 * float(np.median(processor[whole])),
        "words_per_s": POSITIONS / seconds,
        "vs_none": ratio(wall, none, whole),
        "cpu_vs_none": ratio(processor, none, whole),
    }
    if one in wall:
        case["vs_1"] = ratio(wall, one, whole)
    if alone in wall:
        case["collectives"] = 1 - ratio(wall, alone, whole)
        case["cpu_collectives"] = 1 - ratio(processor, alone, whole)
    return case


class Process:
    """A process with R devices, and no more, that takes steps when asked.

    Args:
        mixture: key of `MIXTURES`.
        devices: R; 0 for no strategy.
        options: of the command line.
    """

    def __init__(self, mixture, devices, options):
        kinds = ["whole"]
        if devices > 1 and not options.no_ablation:
            kinds.append("alone")
        context = multiprocessing.get_context("spawn")
        self.pipe, there = context.Pipe()
        self.process = context.Process(
            target=serve, args=(there, mixture, devices, kinds), daemon=True
        )
        self.process.start()
        there.close()  # so that reading fails if the process ends

    def ready(self):
        """Waits, and gives the names of its kinds of steps."""
        return self.pipe.recv()

    def step(self, kind):
        """Takes a step; returns its seconds, by the clock and of processor time."""
        self.pipe.send(kind)
        return self.pipe.recv()

    def end(self):
        self.pipe.send(None)
        self.process.join()


def serve(pipe, mixture, devices, kinds):
    """What a `Process` runs."""
    strategy = strategy_of(devices)
    changes = {"whole": contextlib.nullcontext, "alone": without_collectives}
    trainers = {kind: Trainer(mixture, strategy, changes[kind]) for kind in kinds}
    pipe.send(kinds)
    while (kind := pipe.recv()) is not None:
        start, processor_start = time.perf_counter(), time.process_time()
        trainers[kind].step()
        pipe.send((time.perf_counter() - start, time.process_time() - processor_start))


@contextlib.contextmanager
def without_collectives():
    """Collective operations traced in here send nothing; shapes stay what they are."""

    def collective(name, x, found):
        return tf.repeat(x, found.num_replicas_in_sync, axis=0) if name == "gather" else x + 0

    def all_reduce(self, reduce_op, value, options=None):
        return value

    with (
        mock.patch.object(tensorflow_internals, "collective", collective),
        mock.patch.object(tf.distribute.ReplicaContext, "all_reduce", all_reduce),
    ):
        yield


if __name__ == "__main__":
    main()
