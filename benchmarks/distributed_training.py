"""The training step that `distribution.py` times and in which `distribution_bytes.py` counts.

Symbols: R devices, D model, H hidden, K experts per position.

The model is a language model, LSTM → mixture → LSTM with a sampled softmax, trained by Adam on a
global batch of 8192 positions, whatever R is: D = 128, 32 experts of H = 256. Its mixture is flat
(`NoisyTopK(k=4)`), hierarchical (8 groups, `NoisyTopK(k=2)` at both levels) or strictly balanced
(`Batchwise(k=4)`). The devices are parts of one CPU.
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
MIXTURES = {  # functions: making a gate uses TensorFlow, and the devices must be divided before
    "flat": lambda: {"gate": NoisyTopK(k=K, **BALANCED)},
    "hierarchical": lambda: {"gate": NoisyTopK(k=2, **BALANCED), "groups": GROUPS},
    "batchwise": lambda: {"gate": Batchwise(k=K, importance_weight=0.1)},
}


def options_of(description):
    """A parser with the options that both benchmarks have; `description` is their docstring."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mixtures", nargs="+", choices=MIXTURES, default=list(MIXTURES))
    parser.add_argument("--json", action="store_true", help="one JSON object, nothing else")
    return parser


def strategy_of(devices):
    """A `MixedStrategy` of so many parts of the CPU, into which it divides it; `None` for 0."""
    return MixedStrategy(logical_cpus(devices)) if devices else None


class Trainer:
    """A model and what `model.fit` would run of it in a step.

    Args:
        mixture: key of `MIXTURES`.
        strategy: a `MixedStrategy`, or `None`.
        changed: context manager in which the step is traced.
    """

    def __init__(self, mixture, strategy, changed=contextlib.nullcontext):
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
        words = np.random.default_rng(0).integers(1, VOCABULARY, (SENTENCES, LENGTH + 1))
        words = words.astype(np.int32)
        batch = tf.data.Dataset.from_tensors((words[:, :-1], words[:, 1:])).repeat()
        if strategy:
            batch = strategy.experimental_distribute_dataset(batch)
        self.iterator = iter(batch)
        self.model.make_train_function()
        with changed():
            self.step()

    def step(self):
        return float(self.model.train_function(self.iterator)["loss"])


def report(cases, columns, as_json, **settings):
    """Prints a table, or one JSON object.

    Args:
        cases: a dictionary for each row.
        columns: `{name: format}` of the table.
        as_json: whether to print JSON.
        settings: what else the JSON object says.
    """
    if as_json:
        model = {"d": D, "h": H, "experts": EXPERTS, "positions": POSITIONS}
        print(json.dumps({**model, **settings, "cases": cases}))
    else:
        print_table(cases, columns)


def print_table(cases, columns):
    """A row for each case; what it lacks is a dash."""
    print(" ".join(f"{name:>13}" for name in columns))
    for case in cases:
        cells = (format(case[name], how) if name in case else "-" for name, how in columns.items())
        print(" ".join(f"{cell:>13}" for cell in cells), flush=True)
