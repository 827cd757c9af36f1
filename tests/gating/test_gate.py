"""Errors of the base class, for gates of one's own."""

import keras
import pytest
import tensorflow as tf

from tfmoe.gating import Gate, LearnedGate
from tfmoe.layers import MoE

X = tf.random.stateless_normal([5, 3], [1, 2])


class First(Gate):
    """Every token to expert 0; the classes below make one mistake each."""

    num_selected = 1

    def route(self, inputs, training=False, groups=None):
        experts = tf.zeros([tf.shape(inputs)[0], 1], tf.int32)
        return self.routing_of_tokens(experts, tf.ones_like(experts, inputs.dtype), groups)


class NoRoute(Gate):
    num_selected = 1


class NoNumber(LearnedGate):
    route = First.route


class OneName(First):
    METRICS = "load"


class NotAccepting(First):
    def __init__(self):
        super().__init__()


class NotPassedOn(First):
    def __init__(self, **kwargs):
        super().__init__()


class Pair(First):
    def route(self, inputs, training=False, groups=None):
        return tf.zeros([5, 1], tf.int32), tf.ones([5, 1])


class Selects(First):
    """Selects what a test gives."""

    def __init__(self, selection, **kwargs):
        super().__init__(**kwargs)
        self.selection = selection

    def route(self, inputs, training=False, groups=None):
        return self.routing_of_tokens(*self.selection(), groups)

    def get_config(self):
        return {**super().get_config(), "selection": self.selection}


class Unknown(First):
    METRICS = ("load",)

    def measures(self, sums):
        return {"load": tf.reduce_sum(sums["load"]), "laod": tf.reduce_sum(sums["load"])}


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (NoRoute, r"NoRoute must implement route: def route\(self, inputs, training=False, groups"),
        (NoNumber, "NoNumber must implement num_selected: the number of experts per token"),
        (OneName, r"OneName.METRICS must be a tuple of names, \('load',\), got 'load'"),
    ],
)
def test_class(gate, message):
    with pytest.raises(TypeError, match=message):
        gate()


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (NotAccepting, r"NotAccepting.__init__ must accept .*\*\*kwargs.* unexpected keyword"),
        (NotPassedOn, r"NotPassedOn.__init__ must pass .*num_experts=4, and the gate has None"),
    ],
)
def test_constructor(gate, message):
    with pytest.raises(ValueError, match=message):
        MoE(4, 8, gate=gate())


def test_route_returns_no_routing():
    with pytest.raises(TypeError, match=r"Pair.route must return a tfmoe.gating.Routing.*returned"):
        MoE(4, 8, gate=Pair())(X)


@pytest.mark.parametrize(
    ("experts", "weights", "message"),
    [
        ([[1.0]] * 5, [[1.0]] * 5, "experts must be integer ids, got float32"),
        ([[1]] * 5, [[1]] * 5, "weights must be float, got int32"),
        ([1] * 5, [1.0] * 5, r"both be \[T, K\], got the shapes \(5,\) and \(5,\)"),
        ([[1, 2]] * 5, [[1.0]] * 5, r"both be \[T, K\], got the shapes \(5, 2\) and \(5, 1\)"),
    ],
)
def test_selection(experts, weights, message):
    with pytest.raises(ValueError, match=f"Selects.route: .*{message}"):
        MoE(4, 8, gate=Selects(lambda: (experts, weights)))(X)


def test_ids_of_64_bits():
    """As of `tf.argmax`."""
    selection = tf.constant([[3]] * 5, tf.int64), [[1.0]] * 5
    layer = MoE(4, 8, gate=Selects(lambda: selection))
    assert layer.route(X).load.numpy().tolist() == [0, 0, 0, 5]


def test_metric_without_a_name():
    model = keras.Sequential([MoE(4, 8, gate=Unknown(), metrics="all")])
    model.compile("sgd", "mse", run_eagerly=True)
    with pytest.raises(ValueError, match=r"Unknown.METRICS lacks 'laod', which its measures.*load"):
        model.fit(X, X, verbose=0)
