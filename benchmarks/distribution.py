"""Times a training step with the experts sharded over R devices, and the same step on one device.

Symbols: R devices. `distributed_training.py` has the step. The devices are virtual devices of one
CPU. They share its cores, so R devices cannot be faster than one: the loss of throughput is the
overhead of R devices.

Each R runs in its own process, and the processes take turns. Times are medians over the rounds,
ratios are medians over the ratios within a round.

Columns:
    R               devices; `none` is a model without a strategy
    step_ms         median milliseconds per step; cpu_ms the same for processor time
    words_per_s     positions of the global batch over step_ms
    vs_none, vs_1   throughput relative to no strategy, and to `MixedStrategy` with R = 1
    cpu_vs_none     the same for processor time, which other processes disturb less
    collectives     fraction of the step time saved without collective operations; cpu_collectives
                    the same for processor time

The fraction is an ablation: a second step of equal shapes sends nothing. Its all-to-all returns a
device's own rows, and its sums (also of gradients) are those of one device. The ablation removes
both the work and the time that devices wait for each other. An expert sees the positions of its own
device only, so batch sizes differ slightly.

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
    parser.add_argument("--rounds", type=int, default=9, help="timed steps per case; default: 9")
    parser.add_argument(
        "--no-ablation", action="store_true", help="omit the columns of collectives"
    )
    return parser.parse_args()


def measure(mixture, options):
    """The rows of the table for one mixture, one dictionary per number of devices."""
    processes = {devices: Process(mixture, devices, options) for devices in (0, *options.devices)}
    keys = [(devices, kind) for devices, process in processes.items() for kind in process.ready()]
    wall = {key: [] for key in keys}
    processor = {key: [] for key in keys}
    for round_index in range(options.rounds + 1):  # one to warm up
        for devices, kind in keys:
            seconds, processor_seconds = processes[devices].step(kind)
            if round_index >= 1:
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

    def ratio(times, first, second):
        return float(np.median(np.divide(times[first], times[second])))

    none, single = (0, "full"), (1, "full")
    full, ablation = (devices, "full"), (devices, "ablation")
    seconds = float(np.median(wall[full]))
    case = {
        "mixture": mixture,
        "R": devices or "none",
        "step_ms": 1e3 * seconds,
        "cpu_ms": 1e3 * float(np.median(processor[full])),
        "words_per_s": POSITIONS / seconds,
        "vs_none": ratio(wall, none, full),
        "cpu_vs_none": ratio(processor, none, full),
    }
    if single in wall:
        case["vs_1"] = ratio(wall, single, full)
    if ablation in wall:
        case["collectives"] = 1 - ratio(wall, ablation, full)
        case["cpu_collectives"] = 1 - ratio(processor, ablation, full)
    return case


class Process:
    """A process with R virtual devices that runs steps on request.

    Args:
        mixture: key of `MIXTURES`.
        devices: R; 0 for no strategy.
        options: of the command line.
    """

    def __init__(self, mixture, devices, options):
        kinds = ["full"]
        if devices > 1 and not options.no_ablation:
            kinds.append("ablation")
        context = multiprocessing.get_context("spawn")
        self.pipe, child_pipe = context.Pipe()
        self.process = context.Process(
            target=serve, args=(child_pipe, mixture, devices, kinds), daemon=True
        )
        self.process.start()
        child_pipe.close()  # so that reading fails if the process ends

    def ready(self):
        """Waits until the process is ready. Returns its kinds of steps."""
        return self.pipe.recv()

    def step(self, kind):
        """Runs a step. Returns its duration and its processor time in seconds."""
        self.pipe.send(kind)
        return self.pipe.recv()

    def end(self):
        self.pipe.send(None)
        self.process.join()


def serve(pipe, mixture, devices, kinds):
    """The main function of a `Process`."""
    strategy = strategy_of(devices)
    tracing = {"full": contextlib.nullcontext, "ablation": without_collectives}
    trainers = {kind: Trainer(mixture, strategy, tracing[kind]) for kind in kinds}
    pipe.send(kinds)
    while (kind := pipe.recv()) is not None:
        start, processor_start = time.perf_counter(), time.process_time()
        trainers[kind].step()
        pipe.send((time.perf_counter() - start, time.process_time() - processor_start))


@contextlib.contextmanager
def without_collectives():
    """Collective operations traced in this context send nothing. They keep their shapes."""

    def collective(name, x, context):
        return tf.repeat(x, context.num_replicas_in_sync, axis=0) if name == "gather" else x + 0

    def all_reduce(self, reduce_op, value, options=None):
        return value

    with (
        mock.patch.object(tensorflow_internals, "collective", collective),
        mock.patch.object(tf.distribute.ReplicaContext, "all_reduce", all_reduce),
    ):
        yield


if __name__ == "__main__":
    main()
