"""A training step with the experts sharded over R devices, against the same step on one.

Symbols: R devices, b positions on each, n experts, k selected per position, D model, H hidden.

The model is a language model, LSTM → mixture → LSTM with a sampled softmax, trained by Adam on a
global batch of 8192 positions, whatever R is: D = 128, 32 experts of H = 256. Its mixture is flat
(`NoisyTopK(k=4)`), hierarchical (8 groups, `NoisyTopK(k=2)` at both levels) or strictly balanced
(`Batchwise(k=4)`). The devices are parts of one CPU: they share its cores, so that R devices
together can do no more than one. What R costs is what the throughput loses.

Each R has a process of its own; their steps take turns. Times are medians over the rounds, ratios
medians over the ratios within a round.

Columns of the first table:
    R               devices; `none` is a model without a strategy
    step_ms         median milliseconds of a step; cpu_ms the same for processor time
    words_per_s     positions of the global batch over step_ms
    vs_none, vs_1   throughput relative to no strategy, and to `MixedStrategy` with R = 1
    cpu_vs_none     the same for processor time, which other processes disturb less
    collectives     share of the step that is gone without any collective operation; cpu_collectives
                    the same for processor time
The share is an ablation: beside the step runs another one of equal shapes in which nothing is sent,
an all-to-all gives each device its own rows back, and sums are what a device has itself, those of
gradients too. It takes away the waiting for one another with the work, and a device's experts see
only what a device knows itself, so that their batches differ a little.

Columns of the second table, in bytes that a device sends to others in a step, averaged over the
devices and `--counted` steps:
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

    python benchmarks/distribution.py                  # all cases: 7 minutes of processor time
    python benchmarks/distribution.py --mixtures flat --devices 2 --rounds 20
    python benchmarks/distribution.py --json
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np
import tensorflow as tf

from tfmoe.analysis.traffic import traffic_of
from tfmoe.distribute import MixedStrategy, collectives, logical_cpus, tensorflow_internals
from tfmoe.distribute.shards import shard_bounds
from tfmoe.gating import Batchwise, NoisyTopK
from tfmoe.layers import MoE, ProjectedLSTM, mixing, routed_experts
from tfmoe.models import LanguageModel, residual_blocks

D, H, EXPERTS, GROUPS, K = 128, 256, 32, 8, 4
SENTENCES, LENGTH = 256, 32
POSITIONS = SENTENCES * LENGTH
VOCABULARY, SAMPLED = 10000, 1024
WAYS = 4
BALANCED = {"importance_weight": 0.1, "load_weight": 0.1}
MIXTURES = {  # functions: making a gate uses TensorFlow, and the devices must be divided before
    "flat": lambda: {"gate": NoisyTopK(k=K, **BALANCED)},
    "hierarchical": lambda: {"gate": NoisyTopK(k=2, **BALANCED), "groups": GROUPS},
    "batchwise": lambda: {"gate": Batchwise(k=K, importance_weight=0.1)},
}


def main():
    options = parse_arguments()
    cases = []
    for mixture in options.mixtures:
        print(f"{mixture} …", file=sys.stderr)
        cases += measure(mixture, options)
    if options.json:
        settings = {"d": D, "h": H, "experts": EXPERTS, "positions": POSITIONS}
        print(json.dumps({**settings, "rounds": options.rounds, "cases": cases}))
        return
    print_table(cases, TIMES)
    print()
    print_table([case for case in cases if "rows" in case], BYTES)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mixtures", nargs="+", choices=MIXTURES, default=list(MIXTURES))
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4], metavar="R")
    parser.add_argument("--rounds", type=int, default=9, help="timed steps of a case; default: 9")
    parser.add_argument("--counted", type=int, default=3, help="steps to count bytes in; default 3")
    parser.add_argument(
        "--no-ablation", action="store_true", help="leaves out the share of collectives"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object, nothing else")
    return parser.parse_args()


def measure(mixture, options):
    """The rows of both tables for one mixture, a dictionary for each number of devices."""
    processes = {devices: Process(mixture, devices, options) for devices in (0, *options.devices)}
    keys = [(devices, kind) for devices, process in processes.items() for kind in process.ready()]
    wall = {key: [] for key in keys}
    processor = {key: [] for key in keys}
    for i in range(options.rounds + 1):  # one to warm up
        for devices, kind in keys:
            seconds, processor_seconds = processes[devices].ask("step", kind)
            if i >= 1:
                wall[devices, kind].append(seconds)
                processor[devices, kind].append(processor_seconds)

    def ratio(times, one, other):
        return float(np.median(np.divide(times[one], times[other])))

    cases = []
    for devices, process in processes.items():
        whole = (devices, "whole")
        seconds = float(np.median(wall[whole]))
        case = {
            "mixture": mixture,
            "R": devices or "none",
            "step_ms": 1e3 * seconds,
            "cpu_ms": 1e3 * float(np.median(processor[whole])),
            "words_per_s": POSITIONS / seconds,
            "vs_none": ratio(wall, (0, "whole"), whole),
            "cpu_vs_none": ratio(processor, (0, "whole"), whole),
        }
        if 1 in processes:
            case["vs_1"] = ratio(wall, (1, "whole"), whole)
        if (devices, "alone") in keys:
            case["collectives"] = 1 - ratio(wall, (devices, "alone"), whole)
            case["cpu_collectives"] = 1 - ratio(processor, (devices, "alone"), whole)
        if devices > 1:
            case.update(process.ask("count", options.counted))
        cases.append(case)
        process.end()
    return cases


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

    def ask(self, *question):
        self.pipe.send(question)
        return self.pipe.recv()

    def end(self):
        self.pipe.send(("end", None))
        self.process.join()


def serve(pipe, mixture, devices, kinds):
    """What a `Process` runs."""
    strategy = MixedStrategy(logical_cpus(devices)) if devices else None
    changes = {"whole": contextlib.nullcontext, "alone": without_collectives}
    trainers = {kind: Trainer(mixture, strategy, changes[kind]) for kind in kinds}
    pipe.send(kinds)
    while True:
        question, argument = pipe.recv()
        if question == "end":
            return
        if question == "count":
            pipe.send(bytes_sent(trainers["whole"], devices, argument))
            continue
        start, processor_start = time.perf_counter(), time.process_time()
        trainers[argument].step()
        pipe.send((time.perf_counter() - start, time.process_time() - processor_start))


class Trainer:
    """A model and what `model.fit` would run of it in a step.

    Args:
        mixture: key of `MIXTURES`.
        strategy: a `MixedStrategy`, or `None`.
        changed: context manager in which the step is traced.
    """

    def __init__(self, mixture, strategy, changed=contextlib.nullcontext):
        keras.utils.set_random_seed(0)
        with strategy.scope() if strategy else contextlib.nullcontext():
            layers = [
                ProjectedLSTM(D, return_sequences=True),
                MoE(EXPERTS, H, name="moe", **MIXTURES[mixture]()),
                ProjectedLSTM(D, return_sequences=True),
            ]
            self.model = LanguageModel(
                VOCABULARY, D, residual_blocks(layers), num_sampled=SAMPLED, seed=0
            )
            self.model.compile(keras.optimizers.Adam(1e-3))
            self.model.build((None, None))
            self.model.optimizer.build(self.model.trainable_variables)
        words = np.random.default_rng(0).integers(1, VOCABULARY, (SENTENCES, LENGTH + 1))
        words = words.astype(np.int32)
        batch = tf.data.Dataset.from_tensors((words[:, :-1], words[:, 1:])).repeat()
        if strategy:
            batch = strategy.experimental_distribute_dataset(batch)
        self.iterator = iter(batch)
        self.model.make_train_function()
        with changed():
            self.step()

    def step(self):
        return float(self.model.train_function(self.iterator)["loss"])


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


def bytes_sent(trainer, devices, steps):
    """The second table's row: what the next steps send, counted."""
    own_rows, calls, gradients = [], [], []  # of every replica and step
    exchange, collective = routed_experts.exchange, tensorflow_internals.collective
    all_reduce = tf.distribute.ReplicaContext.all_reduce

    def counting_exchange(assignments):
        counts = assignments.counts
        replica, bounds = collectives.replica_id(), shard_bounds(counts.shape[0], devices)
        own = tf.stack([tf.reduce_sum(counts[begin:end]) for begin, end in bounds])
        note(lambda own: own_rows.append((replica, own.copy())), own)
        return exchange(assignments)

    def counting_collective(name, x, found):
        note(lambda shape: calls.append((name, tuple(shape), x.dtype.size)), tf.shape(x))
        return collective(name, x, found)

    def counting_all_reduce(context, reduce_op, values, options=None):
        for each in tf.nest.flatten(values):
            if isinstance(each, tf.IndexedSlices):
                size = each.values.dtype.size * tf.size(each.values)
                size += each.indices.dtype.size * tf.size(each.indices)
                note(lambda size: gradients.append(SENT["gather"](devices) * size), size)
            else:
                size = each.dtype.size * tf.size(each)
                note(lambda size: gradients.append(SENT["sum"](devices) * size), size)
        return all_reduce(context, reduce_op, values, options)

    with (
        mock.patch.object(routed_experts, "exchange", counting_exchange),
        mock.patch.object(mixing, "exchange", counting_exchange),
        mock.patch.object(tensorflow_internals, "collective", counting_collective),
        mock.patch.object(tf.distribute.ReplicaContext, "all_reduce", counting_all_reduce),
    ):
        trainer.model.make_train_function(force=True)
        for _ in range(steps):
            trainer.step()
    (layer,) = (block.layer for block in trainer.model.blocks if isinstance(block.layer, MoE))
    number = steps * devices
    left = sum(own.sum() - own[replica] for replica, own in own_rows) / number
    rows = WAYS * left * D * tf.as_dtype(layer.compute_dtype).size
    predicted = traffic_of(layer, D, POSITIONS // devices, devices)["bytes_sent"]
    # Of one size: the rows of a step, as many for each device as the most that any has for another.
    steps_rows = [own_rows[i : i + devices] for i in range(0, number, devices)]
    of_rows = {devices * D * max(own.max() for _, own in each) for each in steps_rows}
    padded = other = num_exchanges = 0
    for name, shape, size in calls:
        sent = SENT[name](devices) * size * np.prod(shape) / number
        if name == "exchange" and np.prod(shape) in of_rows:
            padded += sent
            num_exchanges += 1
        else:
            other += sent
    assert num_exchanges == WAYS * number, num_exchanges
    return {
        "rows": float(rows),
        "predicted": float(predicted),
        "ratio": float(rows / predicted),
        "padded": float(padded),
        "padding": float(padded / rows),
        "other": float(other),
        "gradients": float(sum(gradients) / number),
    }


# What a device sends to others in a ring, of each byte that it gives to a collective operation.
SENT = {
    "sum": lambda devices: 2 * (devices - 1) / devices,
    "gather": lambda devices: devices - 1,
    "exchange": lambda devices: (devices - 1) / devices,
}


def note(function, tensor):
    """Calls a function with a tensor's value whenever the graph runs."""

    def call(value):
        function(value)
        return np.int32(0)

    tf.numpy_function(call, [tensor], tf.int32)


TIMES = {
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
BYTES = {
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


def print_table(cases, columns):
    """A row for each case; what it lacks is a dash."""
    print(" ".join(f"{name:>13}" for name in columns))
    for case in cases:
        cells = (format(case[name], how) if name in case else "-" for name, how in columns.items())
        print(" ".join(f"{cell:>13}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
