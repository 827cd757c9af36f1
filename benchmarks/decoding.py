"""Measures decoding: words per second of `generate`, sentences per second of `translate`.

Models have the shape of a config and initial weights, so nothing is trained or read. A language
model continues prefixes of 2 words by 32 words, the most probable ones; a translation model
searches translations of sentences of 16 subwords, of up to 24 subwords, with a beam of 4 and of 1.
All functions take turns in one process; figures are medians over the rounds, by the clock and in
processor time.

    python benchmarks/decoding.py
    python benchmarks/decoding.py transformer/moe --batches 1 --rounds 21 --json

To compare two checkouts, run them in turn:

    PYTHONPATH=BEFORE python benchmarks/decoding.py --json
    PYTHONPATH=AFTER python benchmarks/decoding.py --json
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTHONPATH" not in os.environ:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np
import tensorflow as tf

import tfmoe
from tfmoe.config import build_model, load_config
from tfmoe.serving.generation import Generator

CONFIGS = ["demo/language_model", "transformer/moe", "demo/translation"]
WORDS = 8000  # of the vocabulary
PREFIX, GENERATED, ROW = 2, 32, 64
SOURCE, LONGEST, BEAMS = 16, 24, (1, 4)


def main():
    options = parse_arguments()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    cells = [cell for config in options.configs for cell in measure(config, options)]
    if options.json:
        facts = {"tfmoe": str(Path(tfmoe.__file__).parent), "threads": options.threads}
        print(json.dumps({**facts, "rounds": options.rounds, "cells": cells}))
        return
    for cell in cells:
        print("{config:<20} {function:<9} {batch:>3} {clock:>10,.1f} {processor:>10,.1f} "
              "{unit}".format(**cell))  # fmt: skip


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configs", nargs="*", default=CONFIGS, metavar="CONFIG")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32], metavar="B")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds; default: 7")
    parser.add_argument("--threads", type=int, default=1, help="of TensorFlow; default: 1")
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    return parser.parse_args()


def measure(name, options):
    """The figures of a config: a dictionary for each function and batch."""
    keras.utils.set_random_seed(0)
    config = load_config(name)
    model = build_model(config, WORDS)
    model.build((None, None))
    functions = translation(model) if config.model.name == "translation" else generation(model)
    unit = "sentences/s" if config.model.name == "translation" else "words/s"
    calls = {
        (function, batch): (call, tf.constant(ids_for(function, batch)))
        for function, call in functions.items()
        for batch in options.batches
    }
    times, answers = timed(calls, options.rounds)
    for (function, batch), seconds in times.items():
        print(f"{name} {function} {batch}", file=sys.stderr)
        clock, processor = answers[function, batch] / np.median(seconds, axis=0)
        yield {
            "config": name,
            "function": function,
            "batch": batch,
            "clock": float(clock),
            "processor": float(processor),
            "unit": unit,
        }


def ids_for(function, batch):
    length = PREFIX if function == "generate" else SOURCE
    return np.random.default_rng(0).integers(3, WORDS, (batch, length)).astype(np.int32)


def generation(model):
    """`{"generate": function of ids}`, which returns the number of generated words."""
    generator = Generator(model, ROW)

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)])
    def generate(ids):
        size = tf.shape(ids)[0]
        _, counts, ended = generator.write(
            tf.RaggedTensor.from_tensor(ids),
            tf.fill([size], GENERATED),
            tf.zeros([size]),
            tf.zeros([size], tf.int32),
        )
        return tf.reduce_sum(counts) + tf.math.count_nonzero(ended, dtype=tf.int32)

    return {"generate": generate}


def translation(model):
    """`{name: function of ids}`, for each beam, which returns the number of sentences."""

    def search(beam_size):
        @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)])
        def translate(ids):
            hypotheses = model.translate(ids, beam_size=beam_size, max_length=LONGEST)
            with tf.control_dependencies([hypotheses.ids]):
                return tf.shape(ids)[0]

        return translate

    return {f"beam {size}": search(size) for size in BEAMS}


def timed(calls, rounds):
    """Calls functions in turn; the first round is not timed.

    Args:
        calls: `{key: (function, argument)}`.
        rounds: number of timed rounds.

    Returns:
        `{key: [rounds, 2]}` seconds by the clock and of the processor, and `{key: answers}`.
    """
    seconds, answers = {key: [] for key in calls}, {}
    for _ in range(rounds + 1):
        for key, (function, argument) in calls.items():
            clock, processor = time.perf_counter(), time.process_time()
            answers[key] = int(function(argument))
            seconds[key].append((time.perf_counter() - clock, time.process_time() - processor))
    return {key: np.array(values[1:]) for key, values in seconds.items()}, answers


if __name__ == "__main__":
    main()
