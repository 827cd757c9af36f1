import keras
import numpy as np
import pytest
import tensorflow as tf
from gating.dense import dense_gates

from tfmoe.gating import ExpertThreshold, Groups
from tfmoe.layers import MoE

RNG = np.random.default_rng(0)
# Four tokens, two experts. The ⌈1·4/2⌉ = 2nd highest scores are .7 and .4.
PROBABILITY = np.array([[0.6, 0.4], [0.9, 0.1], [0.7, 0.3], [0.2, 0.8]])


def built_gate(num_experts=2, input_dim=2, **arguments):
    gate = ExpertThreshold(num_experts=num_experts, dtype="float64", **arguments)
    gate.build((None, input_dim))
    kernel = gate.gate_kernel
    if num_experts == input_dim:
        kernel.assign(np.broadcast_to(np.eye(num_experts), kernel.shape))
    return gate


def test_by_hand():
    gate = built_gate(k=1, ema=0.75)
    x = tf.constant(np.log(PROBABILITY))
    np.testing.assert_array_equal(gate.thresholds, [0.5, 0.5])
    first = gate(x, training=True)
    # The thresholds of the first batch are its quantiles .7 and .4, which no token must equal.
    np.testing.assert_allclose(
        dense_gates(first, 4, 2), [[0, 0], [0.9, 0], [0, 0], [0, 0.8]], rtol=1e-12
    )
    gate.update(first.sums)
    np.testing.assert_allclose(gate.thresholds, [0.7, 0.4], rtol=1e-12)
    # Tokens 1 and 2 only: m = 1, the quantiles are .9 and .3.
    second = gate(x[1:3], training=True)
    np.testing.assert_allclose(dense_gates(second, 2, 2), [[0.9, 0], [0, 0]], rtol=1e-12)
    measures = {name: float(value) for name, value in gate.measures(second.sums).items()}
    assert measures == {"experts_per_token": 0.5, "unrouted": 0.5}
    gate.update(second.sums)  # by 1/2, as this is batch 2
    np.testing.assert_allclose(gate.thresholds, [0.8, 0.35], rtol=1e-12)
    for _ in range(3):  # by 1/3, 1/4 and 1/4
        gate.update(second.sums)
    left = 2 / 3 * 0.75 * 0.75
    expected = np.array([0.9, 0.3]) + left * (np.array([0.8, 0.35]) - [0.9, 0.3])
    np.testing.assert_allclose(gate.thresholds, expected, rtol=1e-12)
    # Outside of training the same thresholds select, for one token as in a batch.
    for rows in (slice(None), slice(1, 2)):
        routing = gate(x[rows])
        taken = np.where(expected < PROBABILITY, PROBABILITY, 0)[rows]
        np.testing.assert_allclose(dense_gates(routing, len(taken), 2), taken, rtol=1e-12)


def test_thresholds_of_random_batches():
    """Against NumPy."""
    gate = built_gate(6, 4, k=2, ema=0.6)
    kernel, expected = gate.gate_kernel.numpy(), None
    for step in range(1, 5):
        x = RNG.standard_normal((7 + step, 4))
        gate.update(gate(tf.constant(x), training=True).sums)
        scores = np.exp(x @ kernel) / np.exp(x @ kernel).sum(axis=1, keepdims=True)
        quantile = np.sort(scores, axis=0)[-int(np.ceil(2 * len(x) / 6))]
        rate = max(0.4, 1 / step)
        expected = quantile if step == 1 else (1 - rate) * expected + rate * quantile
        np.testing.assert_allclose(gate.thresholds, expected, rtol=1e-10)


def test_groups_by_hand():
    # Group 0 has tokens 0 and 1, group 1 none, group 2 tokens 2 and 3.
    gate = built_gate(k=1, num_groups=3)
    groups = Groups(tf.constant([2, 0, 2]))
    gate.update(gate(tf.constant(np.log(PROBABILITY)), training=True, groups=groups).sums)
    np.testing.assert_allclose(gate.thresholds, [[0.9, 0.4], [0.5, 0.5], [0.7, 0.8]], rtol=1e-12)
    np.testing.assert_array_equal(gate.num_updates, [1, 0, 1])
    routing = gate(
        tf.constant(np.log(PROBABILITY))[:2] + 1e-9, groups=Groups(tf.constant([0, 2, 0]))
    )
    np.testing.assert_allclose(dense_gates(routing, 2, 6)[:, 2:4], [[0.6, 0], [0.9, 0]], rtol=1e-6)


def test_sums_of_several_steps_count_as_one_batch():
    """The time steps of a recurrent mixture, of which one is all padding."""
    gate, x = built_gate(k=1), tf.constant(np.log(PROBABILITY))
    steps = [gate(rows, training=True).sums for rows in (x, x[1:3], x[:0])]
    gate.update(tf.nest.map_structure(lambda *values: tf.add_n(values), *steps))
    # The means of .7 and .9, and of .4 and .3.
    np.testing.assert_allclose(gate.thresholds, [0.8, 0.35], rtol=1e-12)
    assert float(gate.num_updates) == 1


def test_an_empty_batch_changes_nothing():
    gate = built_gate(k=1)
    gate.update(gate(tf.zeros([0, 2], tf.float64), training=True).sums)
    np.testing.assert_array_equal(gate.thresholds, [0.5, 0.5])
    assert float(gate.num_updates) == 0


@pytest.mark.slow
def test_training_reaches_k_experts_per_token():
    x = RNG.standard_normal((512, 8)).astype("float32")
    keras.utils.set_random_seed(1)
    layer = MoE(8, 4, gate=ExpertThreshold(k=2, ema=0.9), name="moe")
    model = keras.Sequential([keras.Input([8]), layer])
    model.compile("adam", "mse")
    logs = model.fit(x, x, batch_size=64, epochs=3, verbose=0).history
    assert logs["moe_experts_per_token"][-1] == pytest.approx(2, abs=0.2)
    assert logs["moe_max_over_mean_load"][-1] < 1.5
    result = model.evaluate(x, x, verbose=0, return_dict=True)
    assert result["moe_experts_per_token"] == pytest.approx(2, abs=0.2)


def test_one_expert_takes_all_tokens():
    gate = built_gate(1, 3, k=1)
    for training in (True, False):
        routing = gate(tf.ones([4, 3], tf.float64), training=training)
        np.testing.assert_array_equal(routing.load, [4])
        if training:
            gate.update(routing.sums)


@pytest.mark.parametrize("value", [-0.1, 1.0, "high"])
def test_wrong_ema(value):
    with pytest.raises(ValueError, match="ema must be a number of at least 0 and below 1"):
        ExpertThreshold(ema=value)
