"""User-defined gates and mixtures on several devices."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.gating import Gate, Hierarchical, Softmax, Switch
from tfmoe.layers import MoE

X = np.random.default_rng(0).standard_normal((9, 5)).astype("float32")


class CountingGate(Gate):
    """Selects the most probable expert; a weight counts the tokens that each expert received."""

    num_selected = 1

    def build(self, input_shape):
        super().build(input_shape)
        shape = (*self.stack, self.num_experts)
        self.add_own_weight("received", shape, keras.initializers.Zeros(), trainable=False)

    def route(self, inputs, training=False, groups=None):
        logits = self.logits("gate_kernel", inputs, groups)
        weights, experts = tf.math.top_k(tf.nn.softmax(logits), 1)
        return self.routing_of_tokens(experts, weights, groups)

    def update(self, sums, micro_step=None):
        self.add_to_weight("received", sums["load"])


class LimitedGate(Softmax):
    """Each of two groups accepts at most a quarter of half of the tokens."""

    def token_capacity(self, training):
        return 0.25


def rows(r, replicas):
    return tf.constant(X[9 * r // replicas : 9 * (r + 1) // replicas])


def make_layer(strategy, gate):
    keras.utils.set_random_seed(1)
    if strategy is None:
        layer = MoE(8, 4, gate=gate, name="moe")
        layer.build((None, 5))
        return layer
    with strategy.scope():
        return make_layer(None, gate)


@pytest.mark.parametrize("replicas", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_gate_updates_its_weights_at_both_levels(strategy_of, in_replicas, replicas):
    single = make_layer(None, Hierarchical(4, CountingGate(), CountingGate()))
    strategy = strategy_of(replicas)
    distributed = make_layer(strategy, Hierarchical(4, CountingGate(), CountingGate()))
    for _ in range(2):
        single(X, training=True)
        in_replicas(strategy, lambda r: distributed(rows(r, replicas), training=True))
    levels = single.gate.primary.received.numpy(), single.gate.secondary.received.numpy()
    assert levels[0].sum() == levels[1].sum() == 2 * len(X)
    for level, expected in zip(("primary", "secondary"), levels, strict=True):
        received = getattr(distributed.gate, level).received.numpy()
        np.testing.assert_array_equal(received, expected)


def test_tokens_over_the_capacity_of_groups_count_as_dropped():
    """Each of 2 groups accepts ⌈0.25·9/2⌉ = 2 of 9 tokens."""
    layer = make_layer(None, Hierarchical(2, LimitedGate(), Softmax()))
    layer(X, training=True)
    dropped = layer.expert_metrics.result()["moe_dropped"]
    assert float(dropped) == pytest.approx(1 - 4 / 18)


def test_communication_in_a_loop_raises_an_error(strategy_of, in_replicas):
    """TensorFlow would hang."""
    strategy = strategy_of(2)
    layer = make_layer(strategy, Switch(balance_weight=0.0))

    def steps(r):
        x = rows(r, 2)
        return tf.while_loop(lambda t, _: t < 3, lambda t, h: (t + 1, h + layer(x)), (0, x))[1]

    with pytest.raises(ValueError, match=r"cannot communicate inside a tf.while_loop: unroll"):
        in_replicas(strategy, steps)


def test_a_layer_created_outside_of_the_scope_raises_an_error(strategy_of, in_replicas):
    layer = make_layer(None, Switch())
    with pytest.raises(ValueError, match=r"create the layer inside `with strategy.scope\(\):`"):
        in_replicas(strategy_of(2), lambda r: layer(rows(r, 2)))
