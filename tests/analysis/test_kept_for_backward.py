"""The activations that layers keep for the backward pass."""

import numpy as np
import pytest
import tensorflow as tf
from analysis.small_models import lstm
from gradient_reads import kept, read_by_gradient, step_by_step

from tfmoe.gating import Batchwise, Hierarchical, NoisyTopK, Softmax
from tfmoe.layers import AttentionLSTM, FeedForward, MoE, Residual

RNG = np.random.default_rng(0)


# Numbers that a layer keeps of each position, D = 4: `always`, and the recomputable `hidden`.
@pytest.mark.parametrize(
    ("layer", "always", "hidden"),
    [
        (lstm(4), 4 + 28, 0),
        (lstm(8, 4), 4 + 56 + 4, 0),
        (FeedForward(6), 4 + 6, 0),
        (FeedForward(6, depth=3), 4 + 18, 0),
        (FeedForward(6, activation="gelu"), 4 + 12, 0),
        (FeedForward(6, gated=True), 4 + 18, 0),
        (FeedForward(6, depth=2, gated=True, activation="silu"), 4 + 48, 0),
        (MoE(6, 5, gate=NoisyTopK(k=2, noise=False)), 4 + 4 * 6 + 16, 10),
        (MoE(6, 5, depth=2, activation="silu", gate=Softmax()), 4 + 4 * 6 + 48, 6 * 10),
        # Hidden activations of 2 experts more; the output of these and their gate, a product.
        (MoE(6, 5, gate=Softmax(), shared_experts=2), 4 + 4 * 6 + 48, 6 * 5 + 10),
        (
            MoE(6, 5, gate=Softmax(), gated=True, shared_experts=2, shared_gate=True),
            4 + 4 * 6 + 48 + 5,
            6 * 10 + 20,
        ),
        (MoE(6, 5, gated=True, gate=Softmax()), 4 + 4 * 6 + 48, 6 * 10),
        # Two matrices for each gate: 3 groups, then 2 of 4 experts; rows of 4 experts per position;
        # the outputs of 2 groups.
        (MoE(12, 5, groups=3, gate=NoisyTopK(k=2)), 12 + 4 * 2 * (3 + 8) + 32 + 8, 20),
        (MoE(6, 5, gate=Batchwise(k=2)), 4 + 2 * 6 + 16, 10),
        (MoE(12, 5, groups=3, gate=Batchwise(k=2)), 12 + 2 * (3 + 8) + 32 + 8, 20),
        # A strictly balanced gate at the first level only.
        (
            MoE(12, 5, gate=Hierarchical(3, Batchwise(k=2), NoisyTopK(k=2))),
            12 + 2 * 3 + 4 * 2 * 8 + 32 + 8,
            20,
        ),
        (AttentionLSTM(4), 4 + 28 + 4 + 4, 0),
        (AttentionLSTM(8, 4, attention_units=3), 4 + 56 + 4 + 4 + 3, 0),
        (AttentionLSTM(8, 4, attention_units=3, attention="additive"), 4 + 56 + 4 + 4, 0),
    ],
)
def test_kept_by_layer(layer, always, hidden):
    assert layer.kept_for_backward(4) == (4 * always, 4 * hidden, False)


@pytest.mark.parametrize(
    ("attention", "kept_per_position", "kept_per_source_position"),
    # 2 weights for each of 5 source steps, and 3 numbers each if additive; D = 4, A = 3.
    [("multiplicative", 3 + 2 * 5, 4 + 2 * 3), ("additive", 5 * 3 + 2 * 5, 4)],
)
def test_kept_by_attention(attention, kept_per_position, kept_per_source_position):
    layer = AttentionLSTM(8, 4, attention_units=3, attention=attention)
    assert layer.kept_for_backward(4, steps=5).total() == 4 * (4 + 56 + 4 + 4 + kept_per_position)
    assert layer.kept_of_source(4) == 4 * kept_per_source_position


def array(*shape):
    return RNG.standard_normal(shape).astype("float32")


@pytest.mark.parametrize(
    "layer",
    [
        FeedForward(24, depth=2),
        FeedForward(24, activation="tanh"),
        FeedForward(24, depth=2, gated=True),
        FeedForward(24, gated=True, activation="silu"),
    ],
)
def test_kept_equals_reads_of_the_traced_gradient(layer):
    inputs = array(2, 10, 8)
    layer.build(inputs.shape)
    read = read_by_gradient(layer, inputs, call=layer, by_hand=True)  # silu: Keras' own gradient
    assert sum(read.values()) + inputs.size == kept(layer, inputs)


@pytest.mark.parametrize("layer", [lstm(16, 8), lstm(8), Residual(lstm(16, 8))])
def test_kept_by_lstm_equals_reads_of_the_traced_gradient(layer):
    inputs = array(2, 10, 8)
    layer.build(inputs.shape)
    read = read_by_gradient(layer, inputs, call=step_by_step(layer))
    # The gradient reads neither the zero initial state nor the final cell.
    unused = 2 * sum(state.shape[1] for state in layer.initial_state(2))
    assert kept(layer, inputs) - unused <= sum(read.values()) <= kept(layer, inputs)


@pytest.mark.parametrize("attention", ["multiplicative", "additive"])
@pytest.mark.parametrize(("units", "projected"), [(16, 8), (8, None)])
def test_kept_by_attention_equals_reads_of_the_traced_gradient(attention, units, projected):
    inputs, memory = array(2, 10, 8), array(2, 7, 8)
    layer = AttentionLSTM(units, projected, attention_units=5, attention=attention)
    layer.build(inputs.shape)
    mask = tf.ones(memory.shape[:2], tf.bool)
    prepared = layer.prepared
    layer.prepared = lambda memory: prepared(memory, mask)
    read = read_by_gradient(layer, inputs, memory, call=step_by_step(layer))
    # The gradient reads the tanh of the query in two views: count one.
    total = sum(size for name, size in read.items() if "MatVec/ExpandDims" not in name)
    total += memory.size
    # The gradient reads neither the zero initial state nor the final state.
    unused = 2 * (units + 8)
    assert kept(layer, inputs, memory) - unused <= total <= kept(layer, inputs, memory)


@pytest.mark.parametrize("groups", [None, 3])
def test_kept_by_strictly_balanced_mixture_equals_reads_of_the_traced_gradient(groups):
    inputs = array(60, 16)
    layer = MoE(6, 8, groups=groups, gate=Batchwise(k=2, importance_weight=0.1))
    layer.build(inputs.shape)
    read = read_by_gradient(layer, inputs, call=lambda x: layer(x, training=True), by_hand=True)
    read_per_position = (sum(read.values()) + inputs.size) / 60
    kept = layer.kept_for_backward(16).total() / 4
    # `kept_for_backward` ignores a few numbers per assignment and per expert.
    num_selected = layer.gate.num_selected + (0 if groups is None else 2)
    assert kept <= read_per_position <= kept + 5 * num_selected + 1
