"""Small language models with random weights, and their exported functions."""

import keras
import numpy as np
import tensorflow as tf

from tfmoe.data_pipelines import Vocabulary
from tfmoe.data_pipelines.graph_tokenization import split_words
from tfmoe.gating import NoisyTopK
from tfmoe.layers import MoELSTM
from tfmoe.models import LanguageModel, residual_blocks
from tfmoe.serving.frozen_weights import FrozenWeights
from tfmoe.serving.language_model import ServingLanguageModel
from tfmoe.serving.saved_model import exported_module

VOCABULARY = Vocabulary(["</S>", "<S>", "<UNK>", *"abcdefgh"])
MAX_LENGTH = 4
D = 6


def make_model(layers):
    keras.utils.set_random_seed(1)
    model = LanguageModel(len(VOCABULARY), D, residual_blocks(layers))
    model.build((None, None))
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.name != "log_thresholds":
            weight.assign(rng.standard_normal(weight.shape) * 0.7)
    return model


def recurrent_mixtures():
    options = {"num_experts": 4, "units": D, "gate": NoisyTopK(k=2)}
    return [
        MoELSTM(name="first", **options),
        MoELSTM(name="second", gate_from="input", **options),
        MoELSTM(name="third", gate_from="input", mixture_of="input", **options),
    ]


def exported(model, stored="float32", top=99):
    """The module and the concrete functions of a model, see `exported_module`."""
    table = VOCABULARY.lookup_table()
    weights = FrozenWeights(model, stored)
    words = VOCABULARY.decode(range(len(VOCABULARY)))
    functions = ServingLanguageModel(model, weights, split_words, table, words, MAX_LENGTH, top)
    resources = {"weights": weights.variables, "table": table}
    return exported_module(functions.signatures(), "score", resources)


def serving(model, stored="float32", top=99):
    return exported(model, stored, top)[1]


def expected_score(model, sentence):
    """The log-probabilities computed by the model itself, row by row."""
    ids = [1, *VOCABULARY.encode(sentence.split()), 0]
    total = []
    for start in range(0, len(ids) - 1, MAX_LENGTH):
        inputs, targets = ids[start : start + MAX_LENGTH], ids[start + 1 : start + MAX_LENGTH + 1]
        inputs = np.array([inputs[: len(targets)]], np.int32)
        total += list(-model.negative_log_likelihood(inputs, np.array([targets])).numpy())
    return total


def generate(functions, prefix, length=(12,), temperature=(0.0,), seed=(1,)):
    return functions["generate"](
        prefix=tf.constant(prefix, tf.string),
        length=tf.constant(length, tf.int32),
        temperature=tf.constant(temperature, tf.float32),
        seed=tf.constant(seed, tf.int32),
    )
