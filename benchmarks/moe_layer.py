"""Times a training step of the mixture-of-experts layer and of a dense layer with the same number
of multiply-adds.

Axes: T tokens, E experts, K selected experts per token, D model, H hidden units of one expert.

A step is a forward and a backward pass without optimizer: of `MoE(E, H, gate=NoisyTopK(k=K))` with
noise and both balancing losses, with gradients of the inputs, the experts and the gate; and of a
ReLU network `D → K·H → D`, with gradients of the inputs and the weights. Both take turns in one
process; ratios are medians over the pairs. D = 512, H = 1024, K = 4, float32.

Routing: `uniform` is the initial gate, with all experts equally likely. `zipf` adds `-s·ln(rank)`
to the logits, with s such that the largest load is about 10 times the mean (6 times for 32 experts,
where the maximum is 8; with 4 experts all are always selected). Noise changes the routing in each
step.

Columns:
    skew            largest load over mean load, as routed
    dense_ms, moe_ms    median milliseconds per step
    ratio           median of moe over dense, paired by round
    cpu_ratio       the same for processor time, which other processes disturb less
    gflops          12·T·D·K·H over the median time of the mixture; dense_gflops of the dense layer
    peak_mb, dense_peak_mb      peak memory of a process that only runs this layer (weights and
                    framework included)

    python benchmarks/moe_layer.py                 # all cases: about 10 minutes on 2 quiet cores
    python benchmarks/moe_layer.py --experts 32 --tokens 1024 --rounds 40
    python benchmarks/moe_layer.py --quick --json
"""

import argparse
import csv
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import tensorflow as tf

from tfmoe.gating import NoisyTopK
from tfmoe.layers import MoE

D, H, K = 512, 1024, 4
ROUTINGS = ("uniform", "zipf")
NOISE_STDDEV = math.log(2)  # softplus(0): W_noise starts at zero
COLUMNS = (
    "experts",
    "tokens",
    "routing",
    "skew",
    "dense_ms",
    "moe_ms",
    "ratio",
    "cpu_ratio",
    "dense_gflops",
    "gflops",
    "dense_peak_mb",
    "peak_mb",
)


def main():
    options = parse_arguments()
    if options.memory_of:
        print(peak_of(*options.memory_of.split("/")))
        return
    rows = []
    for experts in options.experts:
        for tokens in options.tokens:
            for routing in options.routing:
                if routing == "zipf" and experts <= K:
                    continue  # every expert is selected: there is no skew
                print(f"{experts} experts, {tokens} tokens, {routing} …", file=sys.stderr)
                row = measure(experts, tokens, routing, options.rounds)
                if not options.no_memory:
                    row["dense_peak_mb"] = peak_in_subprocess("dense", experts, tokens, routing)
                    row["peak_mb"] = peak_in_subprocess("moe", experts, tokens, routing)
                rows.append(row)
                if not (options.json or options.csv):
                    print_row(row, header=len(rows) == 1)
    if options.json:
        print(json.dumps({"d": D, "h": H, "k": K, "rounds": options.rounds, "cases": rows}))
    if options.csv:
        writer = csv.DictWriter(sys.stdout, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experts", type=int, nargs="+", help="default: 4 32 256")
    parser.add_argument("--tokens", type=int, nargs="+", help="default: 1024 8192")
    parser.add_argument("--routing", nargs="+", choices=ROUTINGS, default=ROUTINGS)
    parser.add_argument("--rounds", type=int, help="timed pairs per case; default: 15")
    parser.add_argument("--quick", action="store_true", help="4 and 32 experts, 1024, 3 rounds")
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print one JSON object only")
    output.add_argument("--csv", action="store_true", help="print comma-separated values")
    parser.add_argument("--memory-of", metavar="KIND/E/T/ROUTING", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.experts = options.experts or ([4, 32] if options.quick else [4, 32, 256])
    options.tokens = options.tokens or ([1024] if options.quick else [1024, 8192])
    options.rounds = options.rounds or (3 if options.quick else 15)
    if min(options.experts) < K:
        parser.error(f"--experts must be at least {K}, the number selected per token")
    return options


def measure(num_experts, num_tokens, routing, rounds):
    steps = {"dense": dense_step(num_tokens), "moe": moe_step(num_experts, num_tokens, routing)}
    wall = {kind: [] for kind in steps}
    processor = {kind: [] for kind in steps}
    skews = []
    for round_index in range(rounds + 2):  # two to trace and warm up
        for kind, step in steps.items():
            start, processor_start = time.perf_counter(), time.process_time()
            skew = step()
            if round_index >= 2:
                wall[kind].append(time.perf_counter() - start)
                processor[kind].append(time.process_time() - processor_start)
                if kind == "moe":
                    skews.append(float(skew))

    def paired_ratio(times):
        return float(np.median(np.divide(times["moe"], times["dense"])))

    dense, moe = float(np.median(wall["dense"])), float(np.median(wall["moe"]))
    operations = 12 * num_tokens * D * K * H
    return {
        "experts": num_experts,
        "tokens": num_tokens,
        "routing": routing,
        "skew": float(np.median(skews)),
        "dense_ms": 1e3 * dense,
        "moe_ms": 1e3 * moe,
        "ratio": paired_ratio(wall),
        "cpu_ratio": paired_ratio(processor),
        "dense_gflops": operations / dense / 1e9,
        "gflops": operations / moe / 1e9,
    }


def dense_step(num_tokens):
    """A function without arguments that runs one training step of the dense layer."""
    x, dy = random_tokens(num_tokens), tf.random.normal([num_tokens, D])
    kernels = [
        tf.Variable(tf.random.normal([D, K * H], stddev=0.03)),
        tf.Variable(tf.random.normal([K * H, D], stddev=0.03)),
    ]

    @tf.function
    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.matmul(tf.nn.relu(tf.matmul(x, kernels[0])), kernels[1])
        return tape.gradient(y, [x, *kernels], dy)

    return lambda: step(x, dy)


def moe_step(num_experts, num_tokens, routing):
    """A function without arguments that runs one training step of the mixture, and returns its
    largest load over the mean load.
    """
    x, dy = random_tokens(num_tokens), tf.random.normal([num_tokens, D])
    gate = NoisyTopK(k=K, importance_weight=0.1, load_weight=0.1)
    layer = MoE(num_experts, H, gate=gate, name="moe")
    layer.build(x.shape)
    if routing == "zipf":
        # The first feature of each token is 1, so its row of W_g is a bias.
        kernel = np.zeros([D, num_experts], np.float32)
        kernel[0] = zipf_logits(num_experts)
        layer.gate.kernels["gate_kernel"].assign(kernel)
    weights = [weight.value for weight in layer.trainable_weights]
    metrics = layer.expert_metrics

    @tf.function
    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            losses = layer.losses
        return tape.gradient([y, *losses], [x, *weights], [dy, *map(tf.ones_like, losses)])

    def run():
        metrics.reset_state()
        step(x, dy)
        return metrics.result()["moe_max_over_mean_load"]

    return run


def random_tokens(num_tokens):
    return tf.concat([tf.ones([num_tokens, 1]), tf.random.normal([num_tokens, D - 1])], axis=1)


def zipf_logits(num_experts):
    """`[E]`: `-s·ln(rank)`, with shuffled ranks, and s for the skew of the module docstring."""
    target = min(10, 0.75 * num_experts / K)
    random = np.random.default_rng(0)
    noise = NOISE_STDDEV * random.standard_normal([4096, num_experts])
    log_rank = np.log(np.arange(1, num_experts + 1))
    low, high = 0.0, 5.0
    for _ in range(20):
        s = (low + high) / 2
        selected = np.argpartition(-(noise - s * log_rank), K, axis=1)[:, :K]
        loads = np.bincount(selected.ravel(), minlength=num_experts)
        low, high = (low, s) if loads.max() > target * loads.mean() else (s, high)
    return random.permutation(-s * log_rank)


def peak_of(kind, num_experts, num_tokens, routing):
    """Peak memory of this process in MB, after three steps of one kind."""
    num_tokens = int(num_tokens)
    moe = kind == "moe"
    step = moe_step(int(num_experts), num_tokens, routing) if moe else dense_step(num_tokens)
    for _ in range(3):
        step()
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return int(status["VmHWM"].split()[0]) // 1024


def peak_in_subprocess(*case):
    command = [sys.executable, __file__, "--memory-of", "/".join(map(str, case))]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return int(result.stdout)


def print_row(row, header):
    if header:
        print(" ".join(f"{name:>13}" for name in COLUMNS))
    cells = [row.get(name, "-") for name in COLUMNS]
    print(
        " ".join(
            f"{cell:13.{2 if cell < 10 else 0}f}" if isinstance(cell, float) else f"{cell:>13}"
            for cell in cells
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
