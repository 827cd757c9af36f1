"""Weights of exports in bfloat16 and int8."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from serving.small_language_models import (
    VOCABULARY,
    D,
    expected_score,
    generate,
    make_model,
    serving,
)

from tfmoe.gating import NoisyTopK
from tfmoe.layers import MoE
from tfmoe.models import LanguageModel, residual_blocks
from tfmoe.serving.frozen_weights import FrozenWeights


def test_int8_weights():
    """The experts' 6 · 6000 weights are large enough to be unpacked expert by expert; the 11 words
    of the embedding are too few to be rounded.
    """
    model = make_model([MoE(3, 6000, gate=NoisyTopK(k=2), name="moe")])
    weights = FrozenWeights(model, "int8")
    types = [variable.dtype for variable in weights.variables]
    rounded = [w.name for w, dtype in zip(model.weights, types, strict=False) if dtype == tf.int8]
    assert rounded == ["kernel_0", "kernel_1"]
    assert [scale.shape for scale in scales_of(weights, model)] == [(3, 1, 6000), (3, 1, D)]
    functions = serving(model, "int8")
    before = expected_score(model, "a b c")
    weights.round_model()
    after = expected_score(model, "a b c")
    assert 1e-4 < np.abs(np.subtract(after, before)).max() < 1
    scored = functions["score"](sentences=tf.constant(["a b c"]))["token_log_probabilities"]
    np.testing.assert_allclose(scored[0], after, rtol=1e-4)
    assert generate(functions, ["a b"], [3])["text"].numpy()[0].decode() == greedy(model, "a b", 3)


def scales_of(weights, model):
    """The variables that follow those of the model's weights."""
    return weights.variables[len(model.weights) :]


def greedy(model, prefix, length):
    """The most probable words after a prefix, computed by the model itself."""
    ids = [1, *VOCABULARY.encode(prefix.split())]
    for _ in range(length):
        logits = model.word_logits(model(np.array([ids[-1:]])))[0, -1].numpy()
        ids.append(int(np.where(np.isin(range(11), [1, 2]), -np.inf, logits).argmax()))
    return " ".join(VOCABULARY.decode(ids[-length:]))


def language_model():
    """A model with large tables of words and small experts."""
    model = LanguageModel(300, D, residual_blocks([MoE(4, 5, gate=NoisyTopK(k=2))]))
    model.build((None, None))
    return model


def test_a_word_has_a_scale():
    model = language_model()
    weights = FrozenWeights(model, "int8")
    assert [scale.shape for scale in scales_of(weights, model)] == [(300, 1)] * 2
    table = model.embedding.embeddings
    before = table.numpy()
    weights.round_model()
    error = np.abs(table.numpy() - before).max(axis=1)
    half_a_scale = np.abs(before).max(axis=1) / 127 / 2
    assert (error <= half_a_scale * 1.001).all() and error.max() > 0


def test_weights_that_cannot_be_stored():
    model = language_model()
    model.softmax.kernel.assign(model.softmax.kernel.numpy() * np.nan)
    with pytest.raises(ValueError, match="softmax/kernel: weights must be finite for int8"):
        FrozenWeights(model, "int8")
    with pytest.raises(ValueError, match="must be one of float32, bfloat16, int8, got 'int4'"):
        FrozenWeights(model, "int4")


def test_biases_of_experts_that_are_layers_are_not_rounded():
    experts = keras.Sequential([keras.layers.Dense(5, "relu"), keras.layers.Dense(D)])
    layer = MoE(4, experts=experts, gate=NoisyTopK(k=2))
    layer.build((None, D))
    weights = FrozenWeights(layer, "bfloat16")
    half = [v.dtype == tf.bfloat16 for v in weights.variables]
    assert half == [
        weight.name.endswith("_kernel") and "gate" not in weight.path for weight in layer.weights
    ]
    assert sum(half) == 2
