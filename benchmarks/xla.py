"""Times the mixture-of-experts layer on its two paths: the sorted path, which plain TensorFlow
takes, and the path with static shapes, compiled by XLA.

Axes: T tokens, E experts, K selected experts per token, D model, H hidden units of one expert.

The layer is `MoE(E, H, gate=NoisyTopK(k=K))` with noise and both balancing losses, in float32. A
training step is a forward and a backward pass without optimizer. All columns take turns in one
process; each is the median over the rounds, and ratios are medians over the pairs.

Columns, each for the step `train` and for `infer`:
    sorted      milliseconds without XLA, dropless
    xla         XLA, dropless: blocks of rows with copies of the weights of their expert
    xla_cap     XLA with a capacity factor of 1.25: one batched product for all experts
    sorted_cap  the sorted path with the same capacity
    compile_s   seconds of the first call of `xla_cap`

    python benchmarks/xla.py            # all cases: about 5 minutes on 2 quiet cores
    python benchmarks/xla.py --experts 8 --tokens 256 --rounds 20 --json
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

from tfmoe.gating import NoisyTopK
from tfmoe.layers import MoE

D, H, K = 256, 512, 2
CAPACITY = 1.25
COLUMNS = {
    "sorted": (None, False),
    "xla": (None, True),
    "sorted_cap": (CAPACITY, False),
    "xla_cap": (CAPACITY, True),
}


def main():
    options = parse_arguments()
    rows = []
    for experts in options.experts:
        for tokens in options.tokens:
            for step in ("train", "infer"):
                print(f"{experts} experts, {tokens} tokens, {step} …", file=sys.stderr)
                rows.append(measure(experts, tokens, step, options.rounds))
                if not options.json:
                    print_row(rows[-1], is_first=len(rows) == 1)
    if options.json:
        print(json.dumps({"d": D, "h": H, "k": K, "rounds": options.rounds, "cases": rows}))


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experts", type=int, nargs="+", default=[8, 64, 256])
    parser.add_argument("--tokens", type=int, nargs="+", default=[16, 256, 2048])
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds per case")
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    options = parser.parse_args()
    if min(options.experts) < K:
        parser.error(f"--experts must be at least {K}, the number selected per token")
    return options


def measure(num_experts, num_tokens, step, rounds):
    functions = {name: make(num_experts, num_tokens, step, *of) for name, of in COLUMNS.items()}
    first = {}
    for name, function in functions.items():
        start = time.perf_counter()
        function()
        first[name] = time.perf_counter() - start
    wall = {name: [] for name in functions}
    processor = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start, processor_start = time.perf_counter(), time.process_time()
            function()
            wall[name].append(time.perf_counter() - start)
            processor[name].append(time.process_time() - processor_start)
    row = {"experts": num_experts, "tokens": num_tokens, "step": step}
    row |= {f"{name}_ms": 1e3 * float(np.median(times)) for name, times in wall.items()}
    for name in ("xla", "xla_cap"):
        row[f"{name}_ratio"] = paired_ratio(wall, name)
        row[f"{name}_cpu_ratio"] = paired_ratio(processor, name)
    return row | {"compile_s": first["xla_cap"]}


def paired_ratio(times, name):
    """The median over the rounds of a column over the sorted path with the same capacity."""
    return float(np.median(np.divide(times[name], times[name.replace("xla", "sorted")])))


def make(num_experts, num_tokens, step, capacity, jit_compile):
    """A function without arguments that runs the step of a new layer and waits for it."""
    gate = NoisyTopK(k=K, importance_weight=0.1, load_weight=0.1)
    layer = MoE(
        num_experts,
        H,
        gate=gate,
        capacity_factor=capacity,
        evaluation_capacity_factor=capacity,
        metrics=False,
    )
    rng = np.random.default_rng(0)
    x, dy = (tf.constant(rng.standard_normal([num_tokens, D], dtype=np.float32)) for _ in range(2))
    layer.build(x.shape)
    layer.gate.gate_kernel.assign(0.1 * rng.standard_normal([D, num_experts]))
    weights = [weight.value for weight in layer.trainable_weights]

    @tf.function(jit_compile=jit_compile, autograph=False)
    def train(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            losses = layer.losses
        return tape.gradient([y, *losses], [x, *weights], [dy, *map(tf.ones_like, losses)])

    @tf.function(jit_compile=jit_compile, autograph=False)
    def infer(x, _):
        return layer(x)

    function = {"train": train, "infer": infer}[step]
    return lambda: tf.nest.flatten(function(x, dy))[0].numpy()


def print_row(row, is_first):
    if is_first:
        print("  ".join(f"{name:>{max(len(name), 6)}}" for name in row))
    cells = (f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values())
    names = (max(len(name), 6) for name in row)
    print(
        "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, names, strict=True)), flush=True
    )


if __name__ == "__main__":
    main()
