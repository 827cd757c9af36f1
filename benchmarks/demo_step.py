"""Measures the training steps of the demo's mixture beside those of its dense model.

Both train on the same batches of the demo's text, a step of each in turn in one process. Figures
are medians over the rounds: milliseconds of a step (forward, backward, optimizer and metrics), by
the clock and in processor time, and the words per second of the mixture relative to those of the
dense model. Reading batches and Keras' callbacks are left out; they cost both models the same.

    python benchmarks/demo_step.py
    python benchmarks/demo_step.py --threads 1 --rounds 9 --json
"""

import argparse
import contextlib
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

from tfmoe.config import build_model, load_config
from tfmoe.config.builders import build_optimizer
from tfmoe.tasks.registry import task_of
from tfmoe.tasks.train import prepare_data

CONFIGS = {"mixture": "demo/language_model", "dense": "demo/dense"}


def main():
    options = parse_arguments()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    with contextlib.redirect_stdout(sys.stderr):
        steps = {name: training_step(config, options) for name, config in CONFIGS.items()}
    seconds = {name: [] for name in steps}
    for _ in range(options.rounds + 1):
        for name, step in steps.items():
            clock, processor = time.perf_counter(), time.process_time()
            step()
            spent = time.perf_counter() - clock, time.process_time() - processor
            seconds[name].append(np.divide(spent, options.batches))
    medians = {name: 1e3 * np.median(values[1:], axis=0) for name, values in seconds.items()}
    ratio = medians["dense"] / medians["mixture"]
    result = {**medians, "words per second, mixture / dense": ratio}
    result = {name: dict(zip(("clock", "processor"), v, strict=True)) for name, v in result.items()}
    if options.json:
        print(json.dumps({"threads": options.threads, "rounds": options.rounds, **result}))
        return
    for name, values in result.items():
        print(f"{name:<34} {values['clock']:8.2f} {values['processor']:8.2f}")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, default=30, help="of a round; default: 30")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds; default: 7")
    parser.add_argument("--threads", type=int, default=2, help="of TensorFlow; default: 2")
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    return parser.parse_args()


def training_step(name, options):
    """A function that trains the model of a config on a round of batches."""
    keras.utils.set_random_seed(0)
    config = load_config(name)
    task = task_of(config)
    vocabulary = prepare_data(task)
    model = build_model(config, len(vocabulary))
    model.compile(build_optimizer(config))
    model.build((None, None))
    model.optimizer.build(model.trainable_variables)
    batches = list(task.training_batches(vocabulary).dataset().take(options.batches))
    ids = tf.TensorSpec([None, None], tf.int32)
    step = tf.function(model.train_step, input_signature=[(ids, ids)])

    def train():
        for batch in batches:
            logs = step(batch)
        return float(logs["loss"])

    return train


if __name__ == "__main__":
    main()
