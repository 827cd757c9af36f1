"""Times a training step of the mixture-of-experts layer beside a dense layer with the same number
of multiply-adds, other schemes for the experts, and the lower bound of this machine.

Axes: T tokens, E experts, K selected experts per token, D model, H hidden units of one expert.

A step is a forward and a backward pass without optimizer: of `MoE(E, H, gate=NoisyTopK(k=K))` with
noise and both balancing losses, with gradients of the inputs, the experts and the gate; and of a
ReLU network `D → K·H → D`, with gradients of the inputs and the weights. D = 512, H = 1024, K = 4,
float32. All systems and the measurements of the machine take turns in one process; ratios are
medians over the rounds. `benchmarks/layer_schemes.py` describes the other schemes. Experts are
padded only where that is at most 100,000 rows.

Routing: `uniform` is the initial gate, with all experts equally likely. `zipf` adds `-s·ln(rank)`
to the logits, with s such that the largest load is about 10 times the mean (6 times for 32 experts,
where the maximum is 8; with 4 experts all are always selected). Noise changes the routing in each
step.

The lower bound is arithmetic + traffic, in seconds:

    bound = 2E · (t(x·W) + t(dy·Wᵀ) + t(xᵀ·dy)) + 4·2·E·D·H · (2 / read + 1 / write)

with t the time of a product of `[M, D]` rows and a `[D, H]` matrix, M = T·K/E, for 4 experts whose
weights stay in the cache; and bytes per second of reading (a sum) and writing (a constant) memory.
The traffic is that of the weights in the forward and in the backward pass, and of their gradients.
Gate, dispatch, activations and combination are not in it, and loads are equal in it. `peak_` bounds
have the arithmetic at the speed of a product of 2048³ instead: few rows do not reach it.

Columns:
    skew            largest load over mean load, as routed
    dense_ms, moe_ms    median milliseconds per step
    ratio           median of moe over dense, paired by round
    cpu_ratio       the same for processor time, which other processes disturb less
    per_variable_ratio, padded_ratio    processor time of the other schemes, over the dense layer
    bound_ms, fraction      the bound, and bound over moe, both by the clock
    cpu_fraction, peak_fraction     the same for processor time; and of the peak bound
    gflops          12·T·D·K·H over the median time of the mixture; dense_gflops of the dense layer
    trace_s         seconds of the first step of the mixture, which builds its graph
    peak_mb, dense_peak_mb      peak memory of a process that only runs this layer (weights and
                    framework included)

    python benchmarks/moe_layer.py                 # all cases: about 10 minutes on 2 quiet cores
    python benchmarks/moe_layer.py --experts 32 --tokens 1024 --rounds 40
    python benchmarks/moe_layer.py --quick --json
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from layer_schemes import EXPERTS, dense_step, mixture_step, zipf_skew
from machine_limits import Clock, Limits, page_faults

D, H, K = SIZES = 512, 1024, 4
ROUTINGS = ("uniform", "zipf")
PEERS = tuple(kind for kind in EXPERTS if kind != "moe")
MAX_PADDED_ROWS = 100_000
COLUMNS = (
    "experts",
    "tokens",
    "routing",
    "skew",
    "dense_ms",
    "moe_ms",
    "ratio",
    "cpu_ratio",
    "per_variable_ratio",
    "padded_ratio",
    "bound_ms",
    "fraction",
    "cpu_fraction",
    "peak_fraction",
    "dense_gflops",
    "gflops",
    "trace_s",
    "dense_peak_mb",
    "peak_mb",
)


def main():
    options = parse_arguments()
    if options.memory_of:
        print(peak_of(*options.memory_of.split("/")))
        return
    rows, limits, faults = [], [], page_faults()
    for experts in options.experts:
        for tokens in options.tokens:
            for routing in options.routing:
                if routing == "zipf" and experts <= K:
                    continue  # every expert is selected: there is no skew
                print(f"{experts} experts, {tokens} tokens, {routing} …", file=sys.stderr)
                row, machine = measure(experts, tokens, routing, options)
                limits.append({"rows": tokens * K // experts, **machine})
                if not options.no_memory:
                    row["dense_peak_mb"] = peak_in_subprocess("dense", experts, tokens, routing)
                    row["peak_mb"] = peak_in_subprocess("moe", experts, tokens, routing)
                rows.append(row)
                if not (options.json or options.csv):
                    print_row(COLUMNS, row, header=len(rows) == 1)
    if options.json:
        machine = {**faults, "cases": limits}
        settings = {"d": D, "h": H, "k": K, "rounds": options.rounds}
        print(json.dumps({**settings, "cases": rows, "machine": machine}))
    elif options.csv:
        writer = csv.DictWriter(sys.stdout, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    else:
        print("\nThe machine, for products of M rows in each expert (GFLOP/s) and memory (GB/s):")
        for i, limit in enumerate(limits):
            print_row(tuple(limit), limit, header=i == 0)
        print(", ".join(f"{name} {value:.1f}" for name, value in faults.items()))


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experts", type=int, nargs="+", help="default: 4 32 256")
    parser.add_argument("--tokens", type=int, nargs="+", help="default: 1024 8192")
    parser.add_argument("--routing", nargs="+", choices=ROUTINGS, default=ROUTINGS)
    parser.add_argument("--rounds", type=int, help="timed rounds per case; default: 11")
    parser.add_argument("--quick", action="store_true", help="4 and 32 experts, 1024, 3 rounds")
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=PEERS,
        default=PEERS,
        help="other schemes to run; default: all",
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print one JSON object only")
    output.add_argument("--csv", action="store_true", help="print comma-separated values")
    parser.add_argument("--memory-of", metavar="KIND/E/T/ROUTING", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.experts = options.experts or ([4, 32] if options.quick else [4, 32, 256])
    options.tokens = options.tokens or ([1024] if options.quick else [1024, 8192])
    options.rounds = options.rounds or (3 if options.quick else 11)
    if min(options.experts) < K:
        parser.error(f"--experts must be at least {K}, the number selected per token")
    return options


def measure(num_experts, num_tokens, routing, options):
    """Returns a row of the table, and what the machine did."""
    limits = Limits(num_tokens * K // num_experts, SIZES)
    steps = {"dense": dense_step(num_tokens, SIZES)}
    padded_rows = num_tokens * K * (zipf_skew(num_experts, K) if routing == "zipf" else 2)
    for kind in ("moe", *options.peers):
        if kind != "padded" or padded_rows <= MAX_PADDED_ROWS:
            steps[kind] = mixture_step(kind, num_experts, num_tokens, routing, SIZES)
    start = time.perf_counter()
    steps["moe"]()
    trace = time.perf_counter() - start
    clocks, skews = {kind: Clock() for kind in steps}, []
    for round_index in range(options.rounds + 2):  # two to trace and warm up
        is_kept = round_index >= 2
        limits.measure(is_kept)
        for kind, step in steps.items():
            skew = clocks[kind].measure(step, is_kept=is_kept)
            if kind == "moe" and is_kept:
                skews.append(skew)

    def ratio(kind, clock):
        times = [getattr(clocks[system], clock) for system in (kind, "dense")]
        return float(np.median(np.divide(*times)))

    dense, moe = clocks["dense"].median(), clocks["moe"].median()
    bound, peak_bound = limits.bounds(num_experts, num_tokens, K)
    cpu_bound, _ = limits.bounds(num_experts, num_tokens, K, "processor")
    operations = 12 * num_tokens * D * K * H
    row = {
        "experts": num_experts,
        "tokens": num_tokens,
        "routing": routing,
        "skew": float(np.median(skews)),
        "dense_ms": 1e3 * dense,
        "moe_ms": 1e3 * moe,
        "ratio": ratio("moe", "wall"),
        "cpu_ratio": ratio("moe", "processor"),
        **{f"{kind}_ratio": ratio(kind, "processor") for kind in PEERS if kind in steps},
        "bound_ms": 1e3 * bound,
        "fraction": bound / moe,
        "cpu_fraction": cpu_bound / clocks["moe"].median("processor"),
        "peak_fraction": peak_bound / moe,
        "dense_gflops": operations / dense / 1e9,
        "gflops": operations / moe / 1e9,
        "trace_s": trace,
    }
    return row, limits.report(num_tokens * K // num_experts)


def peak_of(kind, num_experts, num_tokens, routing):
    """Peak memory of this process in MB, after three steps of one kind."""
    num_tokens = int(num_tokens)
    if kind == "dense":
        step = dense_step(num_tokens, SIZES)
    else:
        step = mixture_step(kind, int(num_experts), num_tokens, routing, SIZES)
    for _ in range(3):
        step()
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return int(status["VmHWM"].split()[0]) // 1024


def peak_in_subprocess(*case):
    command = [sys.executable, __file__, "--memory-of", "/".join(map(str, case))]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return int(result.stdout)


def print_row(columns, row, header):
    widths = [max(len(name), 8) for name in columns]
    if header:
        print(" ".join(f"{name:>{width}}" for name, width in zip(columns, widths, strict=True)))
    cells = []
    for name, width in zip(columns, widths, strict=True):
        cell = row.get(name, "-")
        digits = 2 if isinstance(cell, float) and cell < 10 else 0
        cells.append(f"{cell:{width}.{digits}f}" if isinstance(cell, float) else f"{cell:>{width}}")
    print(" ".join(cells), flush=True)


if __name__ == "__main__":
    main()
