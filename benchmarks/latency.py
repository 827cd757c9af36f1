"""Times single calls of the mixture-of-experts layer with few tokens, from few to many experts.

`MoE(n, H, gate=NoisyTopK(k=K))` with D = 64, H = 128, K = 2, float32, on T tokens at random. A call
is an eager one, or one of a `tf.function` of a `tf.TensorSpec([None, D])`, which does not know T.
Median milliseconds of a call, by the clock / in processor time of all cores.

Columns:
    inference   `layer(x)`
    training    `layer(x, training=True)`, with noise, metrics and both balancing losses
    step        the same with the gradients of the inputs and all weights, which for the experts are
                dense tensors `[n, …]`, whatever the number of tokens

    python benchmarks/latency.py                  # all cases: about two minutes on 2 quiet cores
    python benchmarks/latency.py --threads 1 --experts 8 64 --tokens 1 --json
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tensorflow as tf
from machine_limits import Clock

from tfmoe.gating import NoisyTopK
from tfmoe.layers import MoE

D, H, K = 64, 128, 2
COLUMNS = ("inference", "training", "step")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experts", type=int, nargs="+", default=[8, 64, 256, 1024])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 16, 256])
    parser.add_argument("--modes", nargs="+", default=["eager", "compiled"])
    parser.add_argument("--columns", nargs="+", default=COLUMNS, choices=COLUMNS)
    parser.add_argument("--threads", type=int, default=2, help="threads of TensorFlow; default: 2")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each figure; default: 0.5")
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    rows = []
    for experts in options.experts:
        for mode in options.modes:
            calls = make_calls(experts, mode)
            for tokens in options.tokens:
                x = tf.random.stateless_normal([tokens, D], [0, 1])
                times = {name: measure(calls[name], x, options.seconds) for name in options.columns}
                rows.append({"experts": experts, "mode": mode, "tokens": tokens, **times})
                if not options.json:
                    print(*(f"{cell:>16}" for cell in cells(rows[-1])), flush=True)
    if options.json:
        print(json.dumps({"threads": options.threads, "cases": rows}))


def cells(row):
    """The row of the printed table."""
    times = (
        f"{row[name]['ms']:.2f} / {row[name]['cpu_ms']:.2f}" for name in COLUMNS if name in row
    )
    return f"{row['experts']} {row['mode']}", f"{row['tokens']} tokens", *times


def make_calls(experts, mode):
    """The calls of a new layer: a function of tokens `[T, D]` for each column."""
    gate = NoisyTopK(k=K, importance_weight=0.1, load_weight=0.1)
    layer = MoE(experts, H, gate=gate)
    layer.build((None, D))

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            loss = tf.reduce_sum(y) + tf.add_n(layer.losses)
        return tape.gradient(loss, [x, *(weight.value for weight in layer.trainable_weights)])

    calls = {"inference": layer, "training": lambda x: layer(x, training=True), "step": step}
    if mode == "compiled":
        spec = [tf.TensorSpec([None, D])]
        calls = {name: tf.function(call, input_signature=spec) for name, call in calls.items()}
    return calls


def measure(call, x, seconds):
    """Median milliseconds of a call."""
    clock = Clock()
    for _ in range(2):
        call(x)
    end = time.perf_counter() + seconds
    while len(clock.wall) < 5 or (time.perf_counter() < end and len(clock.wall) < 500):
        clock.measure(lambda: tf.nest.flatten(call(x))[0].numpy())
    return {"ms": 1e3 * clock.median(), "cpu_ms": 1e3 * clock.median("processor")}


if __name__ == "__main__":
    main()
