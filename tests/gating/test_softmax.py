import numpy as np
import pytest
import tensorflow as tf

from tfmoe.gating import Softmax

X = np.random.default_rng(0).standard_normal((7, 3))


def built_gate(**arguments):
    gate = Softmax(num_experts=4, dtype="float64", **arguments)
    gate.build((None, 3))
    gate.kernels["gate_kernel"].assign(np.random.default_rng(1).standard_normal((3, 4)))
    return gate


@pytest.mark.parametrize("training", [False, True])
def test_every_token_goes_to_every_expert_by_its_softmax(training):
    gate = built_gate()
    routed = gate(tf.constant(X), training=training)
    weights = np.exp(X @ gate.kernels["gate_kernel"].numpy())
    expected = weights / weights.sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(routed.experts.numpy(), [[0, 1, 2, 3]] * 7)
    np.testing.assert_allclose(routed.gates.numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(routed.importance.numpy(), expected.sum(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(routed.load.numpy(), [7, 7, 7, 7])


def test_starts_with_equal_weights():
    gate = Softmax(num_experts=4)
    np.testing.assert_allclose(gate(tf.ones([2, 3])).gates.numpy(), 0.25)
    assert [weight.name for weight in gate.trainable_weights] == ["gate_kernel"]


def test_importance_loss_and_its_gradient():
    gate = built_gate(importance_weight=0.2)
    with tf.GradientTape() as tape:
        routed = gate(tf.constant(X), training=True)
        loss = gate.losses[0]
    importance = routed.importance.numpy()
    assert loss.numpy() == pytest.approx(0.2 * importance.var() / importance.mean() ** 2, rel=1e-12)
    kernel = gate.kernels["gate_kernel"]
    gradient, values = tape.gradient(loss, kernel).numpy(), kernel.numpy()
    expected = np.zeros_like(values)
    for i in np.ndindex(values.shape):
        sides = []
        for step in (1e-6, -1e-6):
            moved = values.copy()
            moved[i] += step
            kernel.assign(moved)
            sides.append(gate.balancing_loss(gate.route(tf.constant(X))).numpy())
        expected[i] = (sides[0] - sides[1]) / 2e-6
    np.testing.assert_allclose(gradient, expected, atol=1e-8)


def test_empty_batch():
    assert built_gate()(tf.zeros([0, 3], tf.float64), training=True).gates.shape == (0, 4)
