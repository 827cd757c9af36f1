import numpy as np
import pytest
import tensorflow as tf
from gating.dense import dense_gates

from tfmoe.gating import Groups, QuantileBalanced

RNG = np.random.default_rng(0)


def built_gate(num_experts=2, input_dim=2, **arguments):
    gate = QuantileBalanced(num_experts=num_experts, dtype="float64", **arguments)
    gate.build((None, input_dim))
    kernel = gate.gate_kernel
    if num_experts == input_dim:
        kernel.assign(np.broadcast_to(np.eye(num_experts), kernel.shape))
    return gate


# Logits of four tokens, which all prefer expert 0.
LOGITS = np.array([[4.0, 0], [3, 0], [2, 0], [1, 0]])


def test_by_hand():
    gate = built_gate(k=1, ema=0.5, renormalize=False)
    routing = gate(tf.constant(LOGITS), training=True)
    np.testing.assert_array_equal(routing.load, [4, 0])
    # α = 0, 0, 0, 0. An expert should take 1·4/2 = 2 tokens; the third highest of s - α is 2 and 0.
    gate.update(routing.sums)
    np.testing.assert_allclose(gate.bias, [1, 0], rtol=1e-12)
    gate.update(routing.sums)
    np.testing.assert_allclose(gate.bias, [1.5, 0], rtol=1e-12)
    routing = gate(tf.constant(LOGITS))
    np.testing.assert_array_equal(routing.load, [3, 1])
    assert "quantile" not in routing.sums
    # The weights are those of the logits without the bias.
    p = 1 / (1 + np.exp(-LOGITS[:, 0]))
    expected = np.stack([p, 1 - p], axis=1) * [[1, 0], [1, 0], [1, 0], [0, 1]]
    np.testing.assert_allclose(dense_gates(routing, 4, 2), expected, rtol=1e-12)
    # α is now 0, 0, 0, -1/2: the third highest of 4, 3, 2, 3/2 and of 0, 0, 0, 1/2.
    gate.update(gate(tf.constant(LOGITS), training=True).sums)
    np.testing.assert_allclose(gate.bias, [1.75, 0], rtol=1e-12)


def dual_update(logits, bias, k, ema):
    """The update of the bias in NumPy."""
    num_tokens, num_experts = logits.shape
    alpha = np.sort(logits - bias, axis=1)[:, -k - 1]
    rank = -(-num_tokens * k // num_experts)  # from 0: the (T·K/E + 1)-th
    new = np.sort(logits - alpha[:, None], axis=0)[::-1][rank]
    return ema * bias + (1 - ema) * new


@pytest.mark.parametrize(("num_tokens", "ema"), [(12, 0.0), (12, 0.7), (11, 0.0)])
def test_update_of_random_batches(num_tokens, ema):
    gate = built_gate(6, 4, k=2, ema=ema, score="sigmoid", scale=2.0)
    gate.gate_kernel.assign(RNG.standard_normal((4, 6)))
    bias = np.zeros(6)
    for _ in range(3):
        x = RNG.standard_normal((num_tokens, 4))
        logits = x @ gate.gate_kernel.numpy()
        routing = gate(tf.constant(x), training=True)
        scores = 1 / (1 + np.exp(-logits))
        kept = np.where(logits - bias >= np.sort(logits - bias, axis=1)[:, -2:-1], scores, 0)
        expected = 2 * kept / kept.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(dense_gates(routing, num_tokens, 6), expected, rtol=1e-10)
        gate.update(routing.sums)
        bias = dual_update(logits, bias, 2, ema)
        np.testing.assert_allclose(gate.bias, bias, rtol=1e-10)


def test_the_load_of_a_batch_that_is_repeated_becomes_equal():
    gate = built_gate(4, 4, k=1, renormalize=False)
    x = tf.constant(RNG.normal([2, 1, 0, 0], size=(400, 4)))
    loads = []
    for _ in range(8):
        routing = gate(x, training=True)
        loads.append(np.max(routing.load) / 100)
        gate.update(routing.sums)
    assert loads[0] > 2 > 1.1 > loads[-1]


def test_groups_by_hand():
    # Group 0 has tokens 0 and 1 (m = 1), group 1 none, group 2 tokens 2 and 3.
    gate = built_gate(k=1, num_groups=3, renormalize=False)
    groups = Groups(tf.constant([2, 0, 2]))
    routing = gate(tf.constant(LOGITS), training=True, groups=groups)
    gate.update(routing.sums)
    # The second highest of 4, 3 and of 2, 1.
    np.testing.assert_allclose(gate.bias, [[3, 0], [0, 0], [1, 0]], rtol=1e-12)


def test_all_experts_need_no_bias():
    gate = built_gate(k=2)
    routing = gate(tf.constant(LOGITS), training=True)
    gate.update(routing.sums)
    np.testing.assert_array_equal(gate.bias, [0, 0])
    np.testing.assert_array_equal(routing.load, [4, 4])


def test_sums_of_several_steps_count_as_one_batch():
    """The time steps of a recurrent mixture, of which one is all padding."""
    gate, x = built_gate(k=1, renormalize=False), tf.constant(LOGITS)
    steps = [gate(rows, training=True).sums for rows in (x, x[:3], x[:0])]
    gate.update(tf.nest.map_structure(lambda *values: tf.add_n(values), *steps))
    # The third highest of 4, 3, 2, 1, and of 4, 3, 2.
    np.testing.assert_allclose(gate.bias, [2, 0], rtol=1e-12)


def test_an_empty_batch_changes_nothing():
    gate = built_gate(k=1, renormalize=False)
    gate.bias.assign([1, 2])
    gate.update(gate(tf.zeros([0, 2], tf.float64), training=True).sums)
    np.testing.assert_array_equal(gate.bias, [1, 2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 3}, "k must be at most 2"),
        ({"ema": 1.0}, "ema must be"),
        ({"score": "relu"}, "score must be"),
        ({"scale": -1}, "scale must be"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        QuantileBalanced(num_experts=2, **{"k": 1, **arguments})


def test_a_constant_weight_warns():
    with pytest.warns(UserWarning, match="QuantileBalanced with k=1 and renormalize=True"):
        built_gate(k=1)
