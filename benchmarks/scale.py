"""Measures the memory of each worker of a cluster on this machine, and the bytes that it sends, for
a model whose experts have over a billion parameters in all.

Every worker is a process with one device. It creates the model, trains two steps and saves a
checkpoint. New processes create the model again and restore it; the sums of all variables must be
those that were saved. The model is a language model of 4 residual mixtures of 64 experts, D = 512,
H = 4096, k = 2, with 1,000 words and `FactoredAdam`. The checkpoint takes 4.3 GB of disk; the
processes together take 9 GB of memory and their bases.

Columns, all in MB (10^6 bytes), of the worker with the largest peak:
    phase           create (draw the weights), train (slots and 2 steps), save, restore
    peak_mb         the largest resident memory of the process in this phase
    share_mb        the bytes of what this worker must hold: its experts and the replicated weights,
                    from `train` on also their slots; in `train` and `save` their gradients too,
                    since TensorFlow keeps the memory of a step for the next one
    base_mb         resident memory before `create`: Python, TensorFlow, the strategy, and what the
                    same phases with experts of one hidden unit left
    over            (peak_mb - base_mb) / share_mb: 1 if nothing is held twice
    seconds         duration of the phase; the workers share the cores of this machine

Then the bytes that a worker sends in a step, counted by `sent_bytes.py` and averaged over steps and
workers, beside those that `tfmoe describe --devices` computes: rows of experts without padding, and
gradients.

    python benchmarks/scale.py --workers 4            # 3 minutes
    python benchmarks/scale.py --workers 8 --json
    python benchmarks/scale.py --workers 2 --hidden 64    # a small model, to try it
"""

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from tfmoe.tasks.processes import cluster, report, wait

LAYERS, EXPERTS, D, K, WORDS = 4, 64, 512, 2, 1000
ROWS, LENGTH, STEPS = 64, 32, 2
# The phases of the first processes, and of those that restore.
PHASES = ("create", "train", "save"), ("create", "restore")
COLUMNS = ("phase", "peak_mb", "share_mb", "base_mb", "over", "seconds")


def main():
    options = parse_arguments()
    if options.folder:
        work(options)
        return
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        first, second = (run_cluster(options, Path(folder), i) for i in range(2))
    for saved, restored in zip(first, second, strict=True):
        if saved["sums"] != restored["sums"]:
            raise SystemExit("the restored variables are not those that were saved")
    result = {
        "workers": options.workers,
        "parameters": first[0]["parameters"],
        "largest_variable_mb": first[0]["largest_variable_mb"],
        "phases": [*worst(first), worst(second)[1]],
        "sent_per_step": mean_of([result["sent"] for result in first]),
    }
    if options.json:
        print(json.dumps(result))
        return
    print(
        f"{options.workers} workers, {result['parameters']:,} parameters, the largest variable "
        f"{result['largest_variable_mb']:,.0f} MB"
    )
    print(" ".join(f"{name:>9}" for name in COLUMNS))
    for phase in result["phases"]:
        cells = [phase["phase"], *(f"{phase[name]:,.2f}" for name in COLUMNS[1:])]
        print(" ".join(f"{cell:>9}" for cell in cells))
    sent = result["sent_per_step"]
    for kind in ("rows", "gradients"):
        print(
            f"{kind}: {sent[kind]:,.0f} bytes sent per step, predicted "
            f"{sent[f'predicted_{kind}']:,.0f}"
        )


def worst(results):
    """For each phase the figures of the worker with the largest peak."""
    phases = zip(*(result["phases"] for result in results), strict=True)
    return [max(workers, key=lambda phase: phase["peak_mb"]) for workers in phases]


def mean_of(results):
    """The mean of dictionaries of numbers."""
    return {name: float(np.mean([result[name] for result in results])) for name in results[0]}


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2, help="number of processes; default: 2")
    parser.add_argument("--hidden", type=int, default=4096, help="H; default: 4096")
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    parser.add_argument("--directory", default=None, help="where to save; default: the temporary")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--start", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not 1 <= options.workers <= EXPERTS:
        parser.error(f"--workers must be between 1 and {EXPERTS}, got {options.workers}")
    return options


def run_cluster(options, folder, start):
    """Runs the phases of one start of the processes; returns the results of all workers."""
    command = [sys.executable, __file__, "--folder", str(folder), "--hidden", str(options.hidden)]
    command += ["--start", str(start)]
    with cluster(command, options.workers, folder / f"logs-{start}") as started:
        outcomes = wait(started)
    if any(worker.process.returncode for worker in outcomes):
        raise SystemExit(report(outcomes))
    paths = (folder / f"result-{start}-{i}.json" for i in range(options.workers))
    return [json.loads(path.read_text()) for path in paths]


def work(options):
    """One worker: writes its figures to the folder."""
    from tfmoe.distribute import MixedStrategy

    strategy, folder = MixedStrategy(), Path(options.folder)
    names = PHASES[options.start]
    Phases(strategy, folder / "small", 1).run(names)
    gc.collect()
    base = resident("VmRSS")
    model = Phases(strategy, folder / "large", options.hidden)
    phases = model.run(names)
    for phase in phases:
        phase.update(base_mb=base, over=(phase["peak_mb"] - base) / phase["share_mb"])
    result = {
        "phases": phases,
        "parameters": sum(variable.shape.num_elements() for variable in model.weights()),
        "largest_variable_mb": max(map(whole_bytes, model.weights())) / 1e6,
        "sent": model.sent,
        "sums": [sum_of(variable) for variable in [*model.weights(), *model.slots()]],
    }
    path = folder / f"result-{options.start}-{strategy.worker}.json"
    path.write_text(json.dumps(result))


class Phases:
    """The phases of one model.

    Args:
        strategy: the `MixedStrategy`.
        folder: for the checkpoint.
        hidden_units: H.
    """

    def __init__(self, strategy, folder, hidden_units):
        self.strategy, self.folder, self.hidden_units = strategy, folder, hidden_units
        self.sent = None

    def run(self, names):
        """Runs phases; returns a list of dictionaries."""
        return [self._measured(name, getattr(self, name)) for name in names]

    def _measured(self, name, phase):
        gc.collect()
        reset_peak()
        start = time.perf_counter()
        phase()
        return {
            "phase": name,
            "peak_mb": resident("VmHWM"),
            "share_mb": self.share(name) / 1e6,
            "seconds": time.perf_counter() - start,
        }

    def create(self):
        import keras

        from tfmoe.gating import NoisyTopK
        from tfmoe.layers import MoE
        from tfmoe.models import LanguageModel, residual_blocks
        from tfmoe.optimizers import FactoredAdam

        keras.utils.set_random_seed(0)
        with self.strategy.scope():
            gates = [NoisyTopK(k=K, importance_weight=0.1, load_weight=0.1) for _ in range(LAYERS)]
            mixtures = [MoE(EXPERTS, self.hidden_units, gate=gate) for gate in gates]
            self.model = LanguageModel(WORDS, D, residual_blocks(mixtures))
            self.model.build((None, None))
            self.optimizer = FactoredAdam(1e-3)
            self.model.compile(self.optimizer)

    def train(self):
        import tensorflow as tf
        from sent_bytes import Counter

        draws = np.random.default_rng(0).random([ROWS, LENGTH + 1])
        words = np.exp(draws * np.log(WORDS)).astype(np.int32)  # log-uniform, without padding
        batch = tf.data.Dataset.from_tensors((words[:, :-1], words[:, 1:]))
        counter = Counter(self.strategy.num_replicas_in_sync, D)
        with counter.counting():
            self.model.fit(batch.repeat(STEPS), verbose=0)
        self.sent = self._sent(counter)

    def _sent(self, counter):
        """Bytes that this worker sent in a step, and those that `tfmoe describe` computes."""
        from sent_bytes import TRANSFERS

        from tfmoe.analysis.gradient_traffic import gradient_traffic
        from tfmoe.analysis.traffic import traffic

        devices = self.strategy.num_replicas_in_sync
        tokens = ROWS * LENGTH // devices
        totals, _ = counter.totals()
        mixtures = traffic(self.model, tokens, devices).values()
        return {
            "rows": TRANSFERS * 4 * D * float(counter.rows_sent()) / STEPS,
            "predicted_rows": sum(mixture["bytes_sent"] for mixture in mixtures),
            "gradients": (totals["dense"] + totals["tables"]) / STEPS,
            "predicted_gradients": gradient_traffic(self.model, tokens, devices)["bytes_sent"],
        }

    def save(self):
        from tfmoe.distribute.workers import wait_for_workers

        self._checkpoint().save(1)
        wait_for_workers(self.strategy)  # until worker 0 has joined the parts

    def restore(self):
        with self.strategy.scope():
            self.optimizer.build(self.model.trainable_variables)
        checkpoint = self._checkpoint()
        checkpoint.restore(checkpoint.latest())

    def _checkpoint(self):
        from tfmoe.distribute.checkpoint import Checkpoint

        variables = [*self.weights(), *self.slots()]
        named = {f"variable-{i}": variable for i, variable in enumerate(variables)}
        return Checkpoint(named, self.folder, "scale", self.strategy)

    def weights(self):
        return [variable.value for variable in self.model.trainable_variables]

    def slots(self):
        return [variable.value for variable in self.optimizer.variables]

    def share(self, phase):
        """Bytes that this worker must hold in a phase."""
        weights = sum(map(local_bytes, self.weights()))
        slots = 0 if phase == "create" else sum(map(local_bytes, self.slots()))
        return weights + slots + (weights if phase in ("train", "save") else 0)


def whole_bytes(variable):
    return variable.shape.num_elements() * variable.dtype.size


def local_bytes(variable):
    """The bytes of a variable on this worker."""
    parts = getattr(variable, "local_parts", lambda: [variable])()
    return sum(map(whole_bytes, parts))


def sum_of(variable):
    """The sum of this worker's part of a variable."""
    parts = getattr(variable, "local_parts", lambda: [variable])()
    return sum(float(np.sum(part.numpy(), dtype=np.float64)) for part in parts)


def reset_peak():
    Path("/proc/self/clear_refs").write_text("5")


def resident(name):
    """Resident memory of this process in MB: `VmRSS`, or `VmHWM`, the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return int(status[name].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    main()
