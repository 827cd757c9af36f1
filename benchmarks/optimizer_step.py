"""Times a whole training step of the mixture-of-experts layer, optimizer included.

A step is a forward and a backward pass of `MoE(E, 1024, gate=NoisyTopK(k=4))` with noise and both
balancing losses on `[T, 512]` tokens, and `optimizer.apply`, in one `tf.function`, as in `fit`. The
optimizers take turns on one layer: Keras' Adam, `FusedAdam` and `FactoredAdam`. Median
milliseconds, by the clock / in processor time of all cores, which other processes disturb less.

Columns:
    gradients       the step without an optimizer
    adam, fused_adam, factored_adam     the whole step

    python benchmarks/optimizer_step.py
    python benchmarks/optimizer_step.py --experts 32 --rounds 20 --json
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import tensorflow as tf
from layer_schemes import make_mixture, random_tokens
from machine_limits import Clock

from tfmoe.optimizers import FactoredAdam, FusedAdam

SIZES = (512, 1024, 4)
OPTIMIZERS = {
    "gradients": None,
    "adam": keras.optimizers.Adam,
    "fused_adam": FusedAdam,
    "factored_adam": FactoredAdam,
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experts", type=int, nargs="+", default=[32, 256], help="32 256")
    parser.add_argument("--tokens", type=int, default=1024, help="T; default: 1024")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds; default: 7")
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    options = parser.parse_args()
    rows = []
    for experts in options.experts:
        rows.append(measure(experts, options.tokens, options.rounds))
        if not options.json:
            times = {name: f"{r['ms']:.0f} / {r['cpu_ms']:.0f}" for name, r in rows[-1].items()}
            print(f"{experts} experts, {options.tokens} tokens:", times, flush=True)
    if options.json:
        cases = [{"experts": n, **row} for n, row in zip(options.experts, rows, strict=True)]
        print(json.dumps({"tokens": options.tokens, "rounds": options.rounds, "cases": cases}))


def measure(num_experts, num_tokens, rounds):
    """Median milliseconds of each column, for a number of experts."""
    layer = make_mixture("moe", num_experts, "uniform", SIZES)
    steps = {name: training_step(layer, kind, num_tokens) for name, kind in OPTIMIZERS.items()}
    clocks = {name: Clock() for name in steps}
    for round_index in range(rounds + 1):  # one to trace
        for name, step in steps.items():
            clocks[name].measure(step, is_kept=round_index > 0)
    return {
        name: {"ms": 1e3 * clock.median(), "cpu_ms": 1e3 * clock.median("processor")}
        for name, clock in clocks.items()
    }


def training_step(layer, kind, num_tokens):
    """A function without arguments that runs a training step with an optimizer class, or `None`."""
    x, dy = random_tokens(num_tokens, SIZES[0]), tf.random.normal([num_tokens, SIZES[0]])
    optimizer, variables = kind and kind(), layer.trainable_variables
    if optimizer:
        optimizer.build(variables)

    @tf.function
    def step(x, dy):
        with tf.GradientTape() as tape:
            y = layer(x, training=True)
            losses = layer.losses
        weights = [variable.value for variable in variables]
        gradients = tape.gradient([y, *losses], weights, [dy, *map(tf.ones_like, losses)])
        if not optimizer:
            return gradients
        optimizer.apply(gradients, variables)
        return []

    return lambda: step(x, dy)


if __name__ == "__main__":
    main()
