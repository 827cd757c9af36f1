"""Layers without a mixture in graphs for other runtimes: ONNX Runtime, LiteRT, TensorFlow.js."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.portable_graphs import RUNTIMES, assert_equal, assert_portable, operations, traced
from tfmoe.layers import (
    AttentionLSTM,
    CrossAttention,
    FeedForward,
    MoELSTM,
    ProjectedLSTM,
    Residual,
    SelfAttention,
    VocabularySoftmax,
)
from tfmoe.layers.portable_activations import REPLACEMENTS

D = 8
RNG = np.random.default_rng(0)


def batch(rows, steps, source_steps):
    """Inputs, their mask, a source and its mask."""
    masks = [
        np.arange(length) < RNG.integers(1, length + 1, rows)[:, None]
        for length in (steps, source_steps)
    ]
    inputs, source = (
        RNG.standard_normal([rows, length, D]).astype("float32") for length in (steps, source_steps)
    )
    return inputs, masks[0], source, masks[1]


BATCHES = [batch(1, 5, 3), batch(64, 3, 6)]
SPECS = [
    tf.TensorSpec([None, None, D], tf.float32, name="inputs"),
    tf.TensorSpec([None, None], tf.bool, name="mask"),
    tf.TensorSpec([None, None, D], tf.float32, name="source"),
    tf.TensorSpec([None, None], tf.bool, name="source_mask"),
]
FORWARDS = {
    "lstm": (
        ProjectedLSTM(12, D, return_sequences=True),
        lambda layer, x, mask, m, m_mask: {"y": layer(x, mask=mask), "plain": layer(x)},
    ),
    "last output and states": (
        ProjectedLSTM(D, return_state=True),
        lambda layer, x, mask, m, m_mask: dict(
            zip("yrc", layer(x, mask=mask, initial_state=[x[:, 0], x[:, -1]]), strict=True)
        ),
    ),
    "self-attention": (
        SelfAttention(4, 2, query_key_norm="rms", sliding_window=3, use_bias=True),
        lambda layer, x, mask, m, m_mask: {"y": layer(x, mask=mask)},
    ),
    "self-attention of an encoder": (
        Residual(SelfAttention(2, causal=False), norm="rms"),
        lambda layer, x, mask, m, m_mask: {"y": layer(x, mask=mask), "plain": layer(x)},
    ),
    "cross-attention": (
        CrossAttention(2),
        lambda layer, x, mask, m, m_mask: dict(
            zip("ya", layer(x, m, memory_mask=m_mask, return_attention=True), strict=True)
        ),
    ),
    "attention lstm": (
        AttentionLSTM(12, D, attention="additive"),
        lambda layer, x, mask, m, m_mask: {
            "plain": layer(x, m),
            **dict(zip("ya", layer(x, m, memory_mask=m_mask, return_attention=True), strict=True)),
        },
    ),
    "feed-forward and softmax": (
        Residual(FeedForward(16, activation="gelu", gated=True), activation="gelu", norm="layer"),
        lambda layer, x, mask, m, m_mask: {"y": layer(x), "logits": SOFTMAX(x)},
    ),
    **{
        f"mixture lstm, {mixture}, {gate}": (
            MoELSTM(4, D, mixture_of=mixture, gate_from=gate),
            lambda layer, x, mask, m, m_mask: {"y": layer(x, mask=mask), "plain": layer(x)},
        )
        for mixture in ("both", "input")
        for gate in ("state", "input")
    },
}
SOFTMAX = VocabularySoftmax(13)


QUICK = {
    "lstm", "self-attention of an encoder", "attention lstm", "feed-forward and softmax",
    "mixture lstm, both, state",
}  # fmt: skip


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in FORWARDS]
)
def forward(request):
    """A function of a batch. The weights of its layer are random."""
    layer, function = FORWARDS[request.param]
    if not layer.built:
        layer.build((None, None, D), *[(None, None, D)] * layer.needs_memory)
        for weight in layer.weights:
            if weight.dtype == "float32":
                weight.assign_add(0.3 * RNG.standard_normal(weight.shape))

    def call(*inputs):
        return function(layer, *inputs)

    return call


def test_operations_and_results(forward):
    assert_portable(forward, SPECS, BATCHES)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_results_in_other_runtimes(forward, runtime):
    assert_equal(forward, BATCHES, RUNTIMES[runtime](forward, SPECS, BATCHES))


@pytest.mark.parametrize("activation", REPLACEMENTS, ids=lambda activation: activation.__name__)
def test_replaced_activations(activation):
    layer = Residual(keras.layers.Identity(), activation=activation, residual=False)
    layer.build((None, D))
    x = np.linspace(-9, 9, 8 * D).reshape(-1, D).astype("float32")
    concrete = traced(lambda x: layer(x), tf.TensorSpec([None, D]))
    np.testing.assert_allclose(concrete(tf.constant(x)), activation(x), rtol=1e-6, atol=1e-6)
    assert not operations(concrete) & {"Erfc", "Softsign", "Expm1"}
