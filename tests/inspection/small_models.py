"""Small models with known routing, shared by the tests of the inspection."""

import keras
import numpy as np
import tensorflow as tf

from tfmoe.gating import NoisyTopK
from tfmoe.inspection import mixtures_of
from tfmoe.layers import MoE

LOGITS = np.array(  # of words 0 to 4, for 3 experts
    [[0, 0, 9], [2, 1, 0], [9, 8, 7], [0, 1, 3], [0, 5, 4]], np.float32
)
EXPERTS = np.array([[2, 0], [0, 1], [0, 1], [2, 1], [1, 2]])  # of words 0 to 4, best first
TOKENS = np.array([[1, 3, 4], [1, 3, 0]], np.int32)
RNG = np.random.default_rng(0)


def mixture(name="moe", **options):
    options = {"metrics": "all", **options}
    return MoE(3, 2, gate=NoisyTopK(k=2, noise=False), name=name, **options)


def embedding(**options):
    return keras.layers.Embedding(
        5, 3, embeddings_initializer=lambda shape, dtype: tf.cast(LOGITS, dtype), **options
    )


def use_inputs_as_logits(model):
    """Sets the gate matrices of all mixtures to the identity."""
    for layer in mixtures_of(model).values():
        layer.gate.weights[0].assign(np.eye(3))
    return model


def assert_routed(routed, tokens, lines, positions):
    """Checks the `RoutedText` of known words."""
    assert routed.tokens.tolist() == tokens
    assert routed.lines.tolist() == lines
    assert routed.positions.tolist() == positions
    assert routed.places.tolist() == np.repeat(range(len(tokens)), 2).tolist()
    np.testing.assert_array_equal(routed.experts.reshape(-1, 2), EXPERTS[tokens])
    logits = np.take_along_axis(LOGITS[tokens], EXPERTS[tokens], axis=1)
    gates = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(routed.gates.reshape(-1, 2), gates, rtol=1e-5)


ALL = ([1, 3, 4, 1, 3, 0], [1, 1, 1, 2, 2, 2], [0, 1, 2, 0, 1, 2])
