"""Measures the memory of each worker of a cluster on this machine, for a model whose experts have
over a billion parameters in all.

Every worker is a process with one device. It creates the model, trains two steps, saves a
checkpoint and restores it. The model is 4 residual mixtures of 64 experts, D = 512, H = 4096,
k = 2, with `FactoredAdam`. The checkpoint takes 4.3 GB of disk, the processes 9 GB of memory and
their bases.

Columns, all in MB (10^6 bytes), of the worker with the largest peak:
    phase           create (draw the weights), train (slots and 2 steps), save, restore
    peak_mb         the largest resident memory of the process in this phase
    share_mb        the bytes of what this worker must hold: its experts and the replicated weights;
                    in `train` their gradients too; slots from `train` on
    base_mb         resident memory before `create`: Python, TensorFlow, the strategy, and what the
                    same phases with experts of one hidden unit left
    over            (peak_mb - base_mb) / share_mb: 1 if nothing is held twice
    seconds         duration of the phase; the workers share the cores of this machine

    python benchmarks/scale.py --workers 4            # 2 minutes
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

from tfmoe.tasks.processes import cluster, report, wait

LAYERS, EXPERTS, D, K, TOKENS = 4, 64, 512, 2, 256
PHASES = ("create", "train", "save", "restore")
COLUMNS = ("phase", "peak_mb", "share_mb", "base_mb", "over", "seconds")


def main():
    options = parse_arguments()
    if options.folder:
        work(options)
        return
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        run_cluster(options, Path(folder))
        results = [
            json.loads((Path(folder) / f"worker-{i}.json").read_text())
            for i in range(options.workers)
        ]
    phases = [
        max((result["phases"][i] for result in results), key=lambda phase: phase["peak_mb"])
        for i in range(len(PHASES))
    ]
    result = {
        "workers": options.workers,
        "parameters": results[0]["parameters"],
        "largest_variable_mb": results[0]["largest_variable_mb"],
        "phases": phases,
    }
    if options.json:
        print(json.dumps(result))
        return
    print(
        f"{options.workers} workers, {result['parameters']:,} parameters, the largest variable "
        f"{result['largest_variable_mb']:,.0f} MB"
    )
    print(" ".join(f"{name:>9}" for name in COLUMNS))
    for phase in phases:
        cells = [phase["phase"], *(f"{phase[name]:,.2f}" for name in COLUMNS[1:])]
        print(" ".join(f"{cell:>9}" for cell in cells))


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2, help="number of processes; default: 2")
    parser.add_argument("--hidden", type=int, default=4096, help="H; default: 4096")
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    parser.add_argument("--directory", default=None, help="where to save; default: the temporary")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not 1 <= options.workers <= EXPERTS:
        parser.error(f"--workers must be between 1 and {EXPERTS}, got {options.workers}")
    return options


def run_cluster(options, folder):
    command = [sys.executable, __file__, "--folder", str(folder), "--hidden", str(options.hidden)]
    with cluster(command, options.workers, folder / "logs") as started:
        outcomes = wait(started)
    if any(worker.process.returncode for worker in outcomes):
        raise SystemExit(report(outcomes))


def work(options):
    """One worker: writes its figures to the folder."""
    from tfmoe.distribute import MixedStrategy

    strategy = MixedStrategy()
    folder = Path(options.folder)
    Phases(strategy, folder / "small", 1).run()
    gc.collect()
    base = resident("VmRSS")
    phases = Phases(strategy, folder / "large", options.hidden)
    result = {
        "phases": [{"base_mb": base, **phase} for phase in phases.run()],
        "parameters": sum(v.shape.num_elements() for v in phases.weights()),
        "largest_variable_mb": max(whole_bytes(v) for v in phases.weights()) / 1e6,
    }
    for phase in result["phases"]:
        phase["over"] = (phase["peak_mb"] - base) / phase["share_mb"]
    (folder / f"worker-{strategy.worker}.json").write_text(json.dumps(result))


class Phases:
    """The phases of one model.

    Args:
        strategy: the `MixedStrategy`.
        folder: for the checkpoint.
        hidden_units: H.
    """

    def __init__(self, strategy, folder, hidden_units):
        self.strategy, self.folder, self.hidden_units = strategy, folder, hidden_units

    def run(self):
        """Runs all phases; returns a list of dictionaries."""
        return [self._measured(name, getattr(self, name)) for name in PHASES]

    def _measured(self, name, phase):
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
        from tfmoe.optimizers import FactoredAdam

        keras.utils.set_random_seed(0)
        with self.strategy.scope():
            x = inputs = keras.Input([D])
            for _ in range(LAYERS):
                gate = NoisyTopK(k=K, importance_weight=0.1, load_weight=0.1)
                x = x + MoE(EXPERTS, self.hidden_units, gate=gate)(x)
            self.model = keras.Model(inputs, x)
            self.optimizer = FactoredAdam(1e-3)
            self.model.compile(self.optimizer, "mse")

    def train(self):
        import tensorflow as tf

        x = tf.random.stateless_normal([TOKENS, D], seed=[1, 2])
        self.model.fit(tf.data.Dataset.from_tensors((x, tf.sin(x))).repeat(2), verbose=0)

    def save(self):
        from tfmoe.distribute.workers import wait_for_workers

        self._checkpoint().save(1)
        wait_for_workers(self.strategy)  # until worker 0 has joined the parts

    def restore(self):
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
        return weights + slots + (weights if phase == "train" else 0)


def whole_bytes(variable):
    return variable.shape.num_elements() * variable.dtype.size


def local_bytes(variable):
    """The bytes of a variable on this worker."""
    parts = getattr(variable, "local_parts", lambda: [variable])()
    return sum(map(whole_bytes, parts))


def reset_peak():
    Path("/proc/self/clear_refs").write_text("5")


def resident(name):
    """Resident memory of this process in MB: `VmRSS`, or `VmHWM`, the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return int(status[name].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    main()
