import numpy as np
import pytest
import tensorflow as tf

from tfmoe import gating
from tfmoe.gating import Softmax

X = np.random.default_rng(0).standard_normal((7, 3))


def built_gate(**arguments):
    gate = Softmax(num_experts=4, dtype="float64", **arguments)
    gate.build((None, 3))
    gate.kernels["gate_kernel"].assign(np.random.default_rng(1).standard_normal((3, 4)))
    return gate


@pytest.mark.parametrize("training", [False, True])
def test_every_token_goes_to_every_expert(training):
    gate = built_gate()
    routing = gate(tf.constant(X), training=training)
    weights = np.exp(X @ gate.kernels["gate_kernel"].numpy())
    expected = weights / weights.sum(axis=1, keepdims=True)
    tokens, experts, weights = routing.assignments.by_token()
    np.testing.assert_array_equal(tokens, np.repeat(np.arange(7), 4))
    np.testing.assert_array_equal(experts, [0, 1, 2, 3] * 7)
    np.testing.assert_allclose(weights.numpy().reshape(7, 4), expected, rtol=1e-12)
    assert set(routing.sums) == {"tokens", "importance", "load"}
    assert routing.sums["tokens"].numpy() == 7
    np.testing.assert_allclose(routing.sums["importance"], expected.sum(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(routing.sums["load"], [7, 7, 7, 7])


def test_starts_with_equal_weights():
    gate = Softmax(num_experts=4)
    np.testing.assert_allclose(gate(tf.ones([2, 3])).assignments.weights, 0.25)
    assert [weight.name for weight in gate.trainable_weights] == ["gate_kernel"]


def test_importance_loss_and_its_gradient():
    gate = built_gate(importance_weight=0.2)
    with tf.GradientTape() as tape:
        sums = gate(tf.constant(X), training=True).sums
        loss = gate.loss(sums)
    importance = sums["importance"].numpy()
    assert loss.numpy() == pytest.approx(0.2 * importance.var() / importance.mean() ** 2, rel=1e-12)
    kernel = gate.kernels["gate_kernel"]
    gradient, values = tape.gradient(loss, kernel).numpy(), kernel.numpy()
    expected = np.zeros_like(values)
    for i in np.ndindex(values.shape):
        sides = []
        for step in (1e-6, -1e-6):
            shifted = values.copy()
            shifted[i] += step
            kernel.assign(shifted)
            sides.append(gate.loss(gate.route(tf.constant(X)).sums).numpy())
        expected[i] = (sides[0] - sides[1]) / 2e-6
    np.testing.assert_allclose(gradient, expected, atol=1e-8)
    assert np.abs(expected).max() > 1e-3


def test_no_loss_without_a_weight_or_as_a_level():
    gate = built_gate()
    sums = gate(tf.constant(X), training=True).sums
    assert gate.loss(sums) is None
    assert built_gate(importance_weight=0.2).loss_as_level(sums) is None


def test_empty_batch():
    gate = built_gate(importance_weight=0.2)
    routing = gate(tf.zeros([0, 3], tf.float64), training=True)
    assert routing.assignments.weights.shape == (0,)
    assert routing.assignments.slots.shape == (0, 4)
    assert gate.loss(routing.sums).numpy() == 0


def test_load_weight_is_accepted_in_old_configurations_only():
    for make in (
        lambda: Softmax(load_weight=0.1),
        lambda: gating.get({"name": "softmax", "load_weight": 0.1}),
    ):
        with pytest.raises(ValueError, match="load_weight"):
            make()
    old = {**Softmax(importance_weight=0.3).get_config(), "load_weight": 0.1}
    assert Softmax.from_config(old).importance_weight == 0.3
