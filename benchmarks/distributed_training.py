"""The training step that `distribution.py` times and `distribution_bytes.py` measures.

Symbols: R devices, D model, H hidden, K experts per position.

The model is a language model, LSTM → mixture → LSTM with a sampled softmax, trained with Adam on a
global batch of 8192 positions for every R: D = 128, 32 experts of H = 256. Words are
log-uniform, as the sampled softmax assumes. Its mixture is flat
(`NoisyTopK(k=4)`), hierarchical (8 groups, `NoisyTopK(k=2)` at both levels) or strictly balanced
(`Batchwise(k=4)`). The devices are virtual devices of one CPU.
"""

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np
import tensorflow as tf

from tfmoe.distribute import MixedStrategy, logical_cpus
from tfmoe.gating import Batchwise, NoisyTopK
from tfmoe.layers import MoE, ProjectedLSTM
from tfmoe.models import LanguageModel, residual_blocks

D, H, EXPERTS, GROUPS, K = 128, 256, 32, 8, 4
SENTENCES, LENGTH = 256, 32
POSITIONS = SENTENCES * LENGTH
VOCABULARY, SAMPLED = 10000, 1024
BALANCED = {"importance_weight": 0.1, "load_weight": 0.1}
MIXTURES = {  # functions, because creating a gate before the virtual devices would fail
    "flat": lambda: {"gate": NoisyTopK(k=K, **BALANCED)},
    "hierarchical": lambda: {"gate": NoisyTopK(k=2, **BALANCED), "groups": GROUPS},
    "batchwise": lambda: {"gate": Batchwise(k=K, importance_weight=0.1)},
}


def options_of(description):
    """A parser with the options of both benchmarks."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mixtures", nargs="+", choices=MIXTURES, default=list(MIXTURES))
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    return parser


def strategy_of(devices):
    """A `MixedStrategy` over virtual devices of the CPU, which it creates; `None` for 0."""
    return MixedStrategy(logical_cpus(devices)) if devices else None


class Trainer:
    """A model, and the training step of its `fit`.

    Args:
        mixture: key of `MIXTURES`.
        strategy: a `MixedStrategy`, or `None`.
        tracing: context manager in which the step is traced.
    """

    def __init__(self, mixture, strategy, tracing=contextlib.nullcontext):
        keras.utils.set_random_seed(0)
        with strategy.scope() if strategy else contextlib.nullcontext():
            layers = [
                ProjectedLSTM(D, return_sequences=True),
                MoE(EXPERTS, H, name="moe", **MIXTURES[mixture]()),
                ProjectedLSTM(D, return_sequences=True),
            ]
            self.model = LanguageModel(
                VOCABULARY, D, residual_blocks(layers), num_sampled=SAMPLED, seed=0
            )
            self.model.compile(keras.optimizers.Adam(1e-3))
            self.model.build((None, None))
            self.model.optimizer.build(self.model.trainable_variables)
        words = log_uniform_words((SENTENCES, LENGTH + 1))
        batch = tf.data.Dataset.from_tensors((words[:, :-1], words[:, 1:])).repeat()
        if strategy:
            batch = strategy.experimental_distribute_dataset(batch)
        self.iterator = iter(batch)
        self.model.make_train_function()
        with tracing():
            self.step()

    def step(self):
        return float(self.model.train_function(self.iterator)["loss"])


def log_uniform_words(shape):
    """Word ids of the distribution that the sampled softmax assumes, as int32; never 0."""
    ids = np.arange(VOCABULARY)
    probability = np.log1p(1 / (ids + 1))
    probability[0] = 0
    return np.random.default_rng(0).choice(
        ids.astype(np.int32), shape, p=probability / probability.sum()
    )


def report(cases, columns, as_json, **settings):
    """Prints a table, or one JSON object.

    Args:
        cases: list of dictionaries, one per row.
        columns: `{name: format}` of the table.
        as_json: whether to print JSON.
        **settings: further items of the JSON object.
    """
    if as_json:
        model = {"d": D, "h": H, "experts": EXPERTS, "positions": POSITIONS}
        print(json.dumps({**model, **settings, "cases": cases}))
    else:
        print_table(cases, columns)


def print_table(cases, columns):
    """Prints one row per case, with a dash for missing values."""
    print(" ".join(f"{name:>13}" for name in columns))
    for case in cases:
        cells = (
            format(case[name], number_format) if name in case else "-"
            for name, number_format in columns.items()
        )
        print(" ".join(f"{cell:>13}" for cell in cells), flush=True)
