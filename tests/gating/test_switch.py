import math

import numpy as np
import pytest
import tensorflow as tf

from tfmoe.gating import Hierarchical, Switch

# With W_g the identity the logits are the inputs; softmax: (3/4, 1/4), (1/5, 4/5), (2/3, 1/3).
X = np.array([[math.log(3), 0.0], [0.0, math.log(4)], [math.log(2), 0.0]])


def built_gate(**arguments):
    gate = Switch(num_experts=2, dtype="float64", **arguments)
    gate.build((None, 2))
    gate.kernels["gate_kernel"].assign(np.eye(2))
    return gate


def test_the_weight_is_the_probability_before_the_selection():
    routed = built_gate()(tf.constant(X))
    np.testing.assert_array_equal(routed.experts.numpy(), [[0], [1], [0]])
    np.testing.assert_allclose(routed.gates.numpy(), [[3 / 4], [4 / 5], [2 / 3]], rtol=1e-12)
    np.testing.assert_allclose(routed.importance.numpy(), [3 / 4 + 2 / 3, 4 / 5], rtol=1e-12)


def test_balancing_loss_by_hand():
    gate = built_gate(balance_weight=0.5)
    gate(tf.constant(X), training=True)
    # f = (2/3, 1/3), p = mean probability: ((3/4 + 1/5 + 2/3) / 3, (1/4 + 4/5 + 1/3) / 3).
    p = ((3 / 4 + 1 / 5 + 2 / 3) / 3, (1 / 4 + 4 / 5 + 1 / 3) / 3)
    expected = 0.5 * 2 * (2 / 3 * p[0] + 1 / 3 * p[1])
    assert sum(gate.losses).numpy() == pytest.approx(expected, rel=1e-12)
    gate(tf.constant(X), training=False)
    assert gate.losses == []


def test_task_gradient_reaches_the_gate():
    gate = built_gate()
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(gate(tf.constant(X)).gates)
    assert np.abs(tape.gradient(total, gate.kernels["gate_kernel"]).numpy()).max() > 0.1


def test_empty_batch_has_a_finite_loss():
    gate = built_gate()
    gate(tf.zeros([0, 2], tf.float64), training=True)
    assert gate.losses[0].numpy() == 0


def test_wrong_balance_weight():
    with pytest.raises(ValueError, match=r"balance_weight must be .* at least 0, got -1"):
        Switch(balance_weight=-1)


def test_starts_at_random_so_that_tokens_spread():
    gate = Switch(num_experts=8)
    gate.build((None, 64))
    assert np.std(gate.kernels["gate_kernel"].numpy()) > 0


def test_no_level_of_a_hierarchical_mixture():
    with pytest.raises(ValueError, match="primary must be a gate for a level"):
        Hierarchical(groups=2, primary=Switch())
