"""Times training steps of mixtures with few multiply-adds per expert, from few to many experts.

Experts are `48 → 96 → 48`, k = 2, on 4096 tokens, as in a small language model; float32, without an
optimizer, uniform routing. All systems of one number of experts take turns in one process. Median
milliseconds, by the clock / in processor time of all cores, which other processes disturb less.

Columns:
    dense       a ReLU network `48 → 192 → 48`, the same multiply-adds
    experts     dispatch, experts and combination, for given assignments
    zipf        the same, where the expert with the most tokens has 10 times the mean
    loop        `experts` with the loop alone: the scheme for more than 64 experts until version 0.1
    layer       the whole layer, with `NoisyTopK` and both losses, which computes `[4096, n]` logits
    trace_s     seconds of the first step of `layer`, which builds its graph

    python benchmarks/many_experts.py
    python benchmarks/many_experts.py --experts 64 1024 --rounds 30 --json
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import tensorflow as tf
from layer_schemes import NOISE_STDDEV, dense_step, make_mixture, random_tokens, zipf_logits
from machine_limits import Clock

from tfmoe.ops import expert_matmul, expert_runners
from tfmoe.ops.assignments import assign_tokens

SIZES = D, H, K = 48, 96, 2
TOKENS = 4096


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experts", type=int, nargs="+", default=[64, 256, 1024, 4096])
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds; default: 15")
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    options = parser.parse_args()
    rows = []
    for experts in options.experts:
        rows.append(measure(experts, options.rounds))
        if not options.json:
            times = {
                name: value if name == "trace_s" else f"{value['ms']:.1f} / {value['cpu_ms']:.1f}"
                for name, value in rows[-1].items()
            }
            print(f"{experts} experts:", times, flush=True)
    if options.json:
        cases = [{"experts": n, **row} for n, row in zip(options.experts, rows, strict=True)]
        print(json.dumps({"tokens": TOKENS, "rounds": options.rounds, "cases": cases}))


def measure(num_experts, rounds):
    """The columns of a number of experts."""
    steps = {
        "dense": dense_step(TOKENS, SIZES),
        "experts": experts_step(num_experts, np.zeros(num_experts)),
        "zipf": experts_step(num_experts, zipf_logits(num_experts, K)),
        "loop": experts_step(num_experts, np.zeros(num_experts), expert_runners.looped),
        "layer": layer_step(num_experts),
    }
    start = time.perf_counter()
    steps["layer"]()
    trace = time.perf_counter() - start
    clocks = {name: Clock() for name in steps}
    for round_index in range(rounds + 2):  # two to trace and warm up
        for name, step in steps.items():
            clocks[name].measure(step, is_kept=round_index >= 2)
    row = {
        name: {"ms": 1e3 * clock.median(), "cpu_ms": 1e3 * clock.median("processor")}
        for name, clock in clocks.items()
    }
    return {**row, "trace_s": round(trace, 2)}


def experts_step(num_experts, logits, runner=None):
    """A function without arguments that runs a step of the experts alone.

    Args:
        num_experts: n.
        logits: `[n]`; tokens select the experts with the highest sums of logits and noise.
        runner: a function of `tfmoe.ops.expert_runners`; `None` for the one that it selects.
    """
    random = np.random.default_rng(0)
    noisy = logits + NOISE_STDDEV * random.standard_normal([TOKENS, num_experts])
    selected = np.argpartition(-noisy, K, axis=1)[:, :K].astype(np.int32)
    x, dy = random_tokens(TOKENS, D), tf.random.normal([TOKENS, D])
    kernels = [
        tf.Variable(tf.random.normal(shape, stddev=0.1))
        for shape in ([num_experts, D, H], [num_experts, H, D])
    ]

    @tf.function
    def step(x, dy, selected, weights):
        with tf.GradientTape() as tape:
            tape.watch([x, weights])
            assignments = assign_tokens(selected, weights, num_experts)
            rows = expert_matmul.expert_ffn(
                assignments.dispatch(x), assignments.counts, [k.value() for k in kernels]
            )
            y = assignments.combine(rows)
        return tape.gradient(y, [x, weights, *kernels], dy)

    tensors = x, dy, tf.constant(selected), tf.random.uniform([TOKENS, K])
    selects = expert_matmul.runner_for
    if runner is not None:
        expert_matmul.runner_for = lambda *_: runner
    step(*tensors)
    expert_matmul.runner_for = selects
    return lambda: step(*tensors)


def layer_step(num_experts):
    """A function without arguments that runs a step of the whole layer."""
    layer = make_mixture("moe", num_experts, "uniform", SIZES)
    weights = [weight.value for weight in layer.trainable_weights]
    x, dy = random_tokens(TOKENS, D), tf.random.normal([TOKENS, D])

    @tf.function
    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            losses = layer.losses
        return tape.gradient([y, *losses], [x, *weights], [dy, *map(tf.ones_like, losses)])

    return lambda: step(x, dy)


if __name__ == "__main__":
    main()
