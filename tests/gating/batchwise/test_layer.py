"""Outputs and gradients of a mixture with `Batchwise`."""

import numpy as np
import pytest
import tensorflow as tf
from gating.batchwise.dense_routings import (
    HIDDEN,
    D,
    X,
    assignment_mask,
    batchwise_mask,
    tokens_per_expert,
)
from gating.dense import dense_gates

from tfmoe.gating import Batchwise
from tfmoe.layers import MoE

OUTPUT_WEIGHTS = np.random.default_rng(1).standard_normal((11, D))


def randomize(layer):
    layer.build((None, D))
    rng = np.random.default_rng(2)
    for weight in layer.trainable_weights:
        values = rng.standard_normal(weight.shape)
        if weight.name == "log_thresholds":
            values = rng.uniform(-0.4, 0.2, weight.shape) - np.log(weight.shape[-1])
        weight.assign(values)
    return layer


def expert_outputs(layer, x):
    """`[T, E, D]`: the outputs of every expert for every token, as plain matrix products."""
    h = tf.repeat(x[:, None, :], layer.num_experts, axis=1)
    experts = layer.experts
    for i, kernel in enumerate(experts.kernels):
        h = tf.einsum("tei,eio->teo", h, tf.convert_to_tensor(kernel))
        h = h + experts.biases[i] if experts.use_bias else h
        h = experts.activation(h) if i < experts.depth else h
    return h


def masked_softmax(probability, mask):
    """Eq 15-16 for every expert; 0 for a token without one."""
    weighted = probability * mask
    total = tf.reduce_sum(weighted, axis=-1, keepdims=True)
    return weighted / tf.where(total > 0, total, tf.ones_like(total))


def flat_dense(layer, k, training):
    def gates(x):
        probability = tf.nn.softmax(x @ layer.gate.kernels["gate_kernel"])
        values = probability.numpy()
        if training:
            mask = batchwise_mask(values, tokens_per_expert(k, len(values), layer.num_experts))
        else:
            mask = values > np.exp(layer.gate.log_thresholds.numpy())
        return masked_softmax(probability, mask.astype("float64"))

    return gates


def hierarchical_dense(layer, k, training):
    primary, secondary = layer.gate.primary, layer.gate.secondary
    groups, per_group = layer.gate.groups, layer.num_experts // layer.gate.groups

    def gates(x):
        probability = tf.nn.softmax(x @ primary.kernels["gate_kernel"])
        num_rows = tokens_per_expert(k, len(x), groups)
        if training:
            mask = batchwise_mask(probability.numpy(), num_rows)
        else:
            mask = (probability.numpy() > np.exp(primary.log_thresholds.numpy())).astype("float64")
        group_gates = masked_softmax(probability, mask)
        kernels = tf.convert_to_tensor(secondary.kernels["gate_kernel"])
        parts = []
        for i in range(groups):
            within = tf.nn.softmax(x @ kernels[i])
            rows = np.flatnonzero(mask[:, i])
            if training:
                assert len(rows) == num_rows
                num_taken = tokens_per_expert(k, num_rows, per_group)
                inner = batchwise_mask(within.numpy(), num_taken, rows)
            else:
                over = within.numpy() > np.exp(secondary.log_thresholds.numpy()[i])
                inner = over * mask[:, i, None]
            parts.append(group_gates[:, i, None] * masked_softmax(within, inner))
        return tf.concat(parts, axis=1)

    return gates


def dense_gradients(tape, target, sources):
    gradients = tape.gradient(target, sources)
    return [
        tf.zeros(source.shape, tf.float64) if gradient is None else tf.convert_to_tensor(gradient)
        for source, gradient in zip(sources, gradients, strict=True)
    ]


def values_and_gradients(function, variables):
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
        total = tf.reduce_sum(y * OUTPUT_WEIGHTS)
    return [y, *dense_gradients(tape, total, [x, *variables])]


OPTIONS = {"plain": {}, "recompute": {"recompute": True, "depth": 2, "use_bias": True}}


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(("groups", "k"), [(None, 2), (None, 1), (None, 12), (4, 2), (3, 1)])
def test_layer_equals_the_dense_formula(groups, k, compiled, options, training):
    layer = randomize(
        MoE(12, HIDDEN, gate=Batchwise(k=k), groups=groups, dtype="float64", **options)
    )
    dense_gates_of = (flat_dense if groups is None else hierarchical_dense)(layer, k, training)

    def dense(x):
        return tf.einsum("te,ted->td", dense_gates_of(x), expert_outputs(layer, x))

    def sparse(x):
        return layer(x, training=training)

    variables = layer.trainable_variables
    expected = values_and_gradients(dense, variables)
    if compiled:
        spec = tf.TensorSpec([None, D], tf.float64)

        @tf.function(input_signature=[spec])
        def step(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = sparse(x)
                total = tf.reduce_sum(y * OUTPUT_WEIGHTS)
            return [y, *dense_gradients(tape, total, [x, *variables])]

        actual = step(tf.constant(X))
    else:
        actual = values_and_gradients(sparse, variables)
    names = ["outputs", "inputs", *(variable.path for variable in variables)]
    for name, a, b in zip(names, actual, expected, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=0, atol=1e-10, err_msg=name)
        # Only gradients that the task does not train may be zero. (At inference every token may
        # have one expert with weight 1.)
        if not name.endswith("log_thresholds") and (training or "gate_kernel" not in name):
            assert np.abs(b.numpy()).max() > 1e-3, name
    routing = layer.gate.route(tf.constant(X), training=training)
    gates = dense_gates(routing, 11, 12)
    np.testing.assert_allclose(gates, dense_gates_of(tf.constant(X)).numpy(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(routing.sums["importance"], gates.sum(axis=0), atol=1e-12)
    np.testing.assert_array_equal(
        routing.sums["load"], assignment_mask(routing, 11, 12).sum(axis=0)
    )


@pytest.mark.parametrize("groups", [None, 3])
def test_output_at_inference_does_not_depend_on_the_rest_of_the_batch(groups):
    layer = randomize(MoE(6, HIDDEN, gate=Batchwise(k=1), groups=groups, dtype="float64"))
    x = np.concatenate([X, np.random.default_rng(4).standard_normal((20, D))])
    whole = layer(x).numpy()
    for tokens in ([3], [0, 1], range(11), [30, 5, 5, 17], range(30, -1, -1)):
        part = layer(x[list(tokens)]).numpy()
        np.testing.assert_allclose(part, whole[list(tokens)], rtol=0, atol=1e-12)
    # In training it does: every expert takes token 3 if it is alone.
    alone = layer(x[3:4], training=True).numpy()
    assert np.abs(alone - layer(x, training=True).numpy()[3]).max() > 1e-3


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("groups", [None, 1])
def test_a_mixture_of_one_expert_is_the_expert(groups, training):
    layer = MoE(1, HIDDEN, gate=Batchwise(k=1), groups=groups, dtype="float64")
    layer.build((None, 5))
    first, second = (kernel.numpy()[0] for kernel in layer.experts.kernels)
    expected = np.maximum(X @ first, 0) @ second
    outputs = layer(tf.constant(X), training=training).numpy()
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-12)
    assert np.abs(expected).max() > 0.1
