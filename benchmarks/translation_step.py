"""Measures the time of the parts of a translation model's training step.

Times forward and backward passes, without optimizer, on random sentences of one length: of the
config's model, of the model without mixtures, of the model with a vocabulary of 100 words (for
softmax and embedding), and of the decoder's first LSTM with and without attention. They take turns
in one process. The time of a part is a difference. Times are processor times, which other processes
disturb less, and minima over the rounds.

    python benchmarks/translation_step.py                     # demo/translation
    python benchmarks/translation_step.py wmt14/en-fr-moe-32 --rounds 3
"""

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import tensorflow as tf

from tfmoe.config import build_model, load_config
from tfmoe.layers import ProjectedLSTM

SMALL_VOCABULARY = 100


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("config", nargs="?", default="demo/translation")
    parser.add_argument("--length", type=int, default=16, help="subwords per sentence")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    config = load_config(arguments.config)
    pairs = max(1, config.data.batch_tokens // (2 * arguments.length))
    steps = {name: traced(make(config, pairs, arguments.length)) for name, make in CASES.items()}
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(arguments.rounds):
        for name, step in steps.items():
            start = time.process_time()
            step()
            best[name] = min(best[name], time.process_time() - start)
    whole = best["whole"]
    parts = {
        "mixtures": whole - best["without mixtures"],
        "attention": best["attention LSTM"] - best["plain LSTM"],
        "softmax and embedding": whole - best["small vocabulary"],
    }
    parts["LSTMs and the rest"] = whole - sum(parts.values())
    words = 2 * pairs * arguments.length
    print(f"{arguments.config}: {pairs} pairs of {arguments.length} + {arguments.length} subwords")
    print(f"{'processor time':<22}{1e3 * whole:8.1f} ms {words / whole:12,.0f} words/s")
    for name, seconds in parts.items():
        print(f"{name:<22}{1e3 * seconds:8.1f} ms {seconds / whole:12.1%}")


def whole_model(config, pairs, length, words=None):
    """`(function of the loss, model)`."""
    words = words or config.data.vocabulary.size
    model = build_model(config, words)
    model.build((None, None))
    rng = np.random.default_rng(0)
    source, target, targets = (
        tf.constant(rng.integers(3, words, (pairs, length)), tf.int32) for _ in range(3)
    )

    def loss():
        features = model((source, target), training=True)
        return model.compute_loss((source, target), targets, features, training=True)

    return loss, model


def without_mixtures(config, pairs, length):
    sides = {
        side: [block for block in getattr(config.model, side) if block.name != "moe"]
        for side in ("encoder", "decoder")
    }
    model = config.model.model_copy(update=sides)
    return whole_model(config.model_copy(update={"model": model}), pairs, length)


def attention_lstm(config, pairs, length):
    width = config.model.d_model
    layer = build_model(config).decoder[0].layer
    x, memory = (tf.random.stateless_normal([pairs, length, width], [0, i]) for i in range(2))
    real = tf.ones([pairs, length], tf.bool)
    return lambda: tf.reduce_sum(layer(x, memory, memory_mask=real)), layer


def plain_lstm(config, pairs, length):
    first = config.model.decoder[0]
    layer = ProjectedLSTM(first.units, first.projection_units, return_sequences=True)
    # As wide as the input of the attention LSTM, a vector and its context.
    x = tf.random.stateless_normal([pairs, length, 2 * config.model.d_model], [0, 0])
    return lambda: tf.reduce_sum(layer(x)), layer


CASES = {
    "whole": whole_model,
    "without mixtures": without_mixtures,
    "small vocabulary": lambda *arguments: whole_model(*arguments, words=SMALL_VOCABULARY),
    "attention LSTM": attention_lstm,
    "plain LSTM": plain_lstm,
}


def traced(loss_and_layer):
    """A function that runs one forward and one backward pass."""
    loss, layer = loss_and_layer
    loss()  # builds the layer

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            value = loss()
        return tape.gradient(value, [weight.value for weight in layer.trainable_variables])

    step()
    return step


if __name__ == "__main__":
    main()
