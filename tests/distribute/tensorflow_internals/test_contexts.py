"""The context that code runs in.

A failure here names the private API of TensorFlow or Keras that changed; other tests would only
show that training fails.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.distribute import distribute_lib
from tensorflow.python.eager import context

from tfmoe.distribute import collectives
from tfmoe.distribute.tensorflow_internals import (
    compiles_for_xla,
    converts_to_other_runtime,
    devices_are_initialized,
    global_replica_index,
    graph_in_call,
    in_recompute_grad,
    in_symbolic_call,
    in_while_loop,
    replica_context,
)
from tfmoe.distribute.tensorflow_internals.contexts import local_replica_index


def test_replica_contexts(strategy_of):
    assert replica_context() is None
    indices = []

    def record():
        replica = replica_context()
        indices.append((local_replica_index(replica), global_replica_index(replica)))

    tf.function(lambda: strategy_of(2).run(record))()
    assert sorted(indices) == [(0, 0), (1, 1)]  # on one worker they are the same


def test_devices_are_initialized(strategy_of):
    strategy_of(1)
    assert context.context()._initialized is True and devices_are_initialized()


def test_in_step():
    """Keras runs its steps in `strategy.run`, with the default strategy too."""
    assert issubclass(distribute_lib._DefaultReplicaContext, tf.distribute.ReplicaContext)
    assert not collectives.in_step()
    recorded = []
    tf.function(lambda: recorded.append(collectives.in_step()))()
    tf.distribute.get_strategy().run(lambda: recorded.append(collectives.in_step()))
    inputs = keras.Input([2])
    layer = keras.layers.Lambda(lambda x: recorded.append(collectives.in_step()) or x)
    model = keras.Model(inputs, layer(inputs))
    del recorded[2:]  # the symbolic call
    model.compile(loss="mse")
    model.evaluate(np.zeros([2, 2]), np.zeros([2, 2]), verbose=0)
    assert recorded == [False, True, True]


def test_in_symbolic_call():
    recorded = []
    layer = keras.layers.Lambda(lambda x: recorded.append(in_symbolic_call()) or x)
    layer(keras.Input([2]))
    layer(np.zeros([1, 2]))
    tf.function(layer)(np.zeros([1, 2]))
    assert recorded == [True, False, False]


def test_compiles_for_xla():
    recorded = []

    def record(x):
        recorded.append(compiles_for_xla())
        return x

    inner = tf.function(record)
    for compiles in (True, False):
        tf.function(record, jit_compile=compiles)(1.0)
        tf.function(lambda x: inner(x), jit_compile=compiles)(1.0 + compiles)
    record(1.0)
    assert recorded == [True, True, False, False, False]


@pytest.mark.parametrize("compiles", [True, False])
def test_compiles_for_xla_in_keras(compiles):
    recorded = []
    inputs = keras.Input([2])
    outputs = keras.layers.Lambda(lambda x: recorded.append(compiles_for_xla()) or x)(inputs)
    model = keras.Model(inputs, outputs)
    model.compile(loss="mse", jit_compile=compiles)
    recorded.clear()  # the symbolic call
    model.evaluate(np.zeros([2, 2]), np.zeros([2, 2]), verbose=0)
    assert recorded == [compiles]


@pytest.mark.parametrize("exporter", ["keras", "tf.lite"])
def test_converts_to_other_runtime(exporter, tmp_path):
    recorded = []
    inputs = keras.Input([2])
    layer = keras.layers.Lambda(lambda x: recorded.append(converts_to_other_runtime()) or x)
    model = keras.Model(inputs, layer(inputs))
    model.export(tmp_path / "saved_model", verbose=False)
    assert not any(recorded)
    recorded.clear()
    if exporter == "keras":
        model.export(tmp_path / "model.tflite", format="litert", verbose=False)
    else:
        tf.lite.TFLiteConverter.from_keras_model(model).convert()
    assert recorded and all(recorded)


def test_in_while_loop():
    recorded = []

    def record(x):
        recorded.append(in_while_loop())
        return x

    def loop(body):
        return tf.while_loop(lambda i: i < 2, lambda i: [body(i) + 1], [tf.constant(0)])

    def branches(x):
        return tf.cond(x > 0, lambda: record(x), lambda: record(x))

    nested = tf.function(record)
    for body, expected in (
        (record, [True]),
        (branches, [True, True]),
        (lambda x: nested(x), [True]),
        (lambda x: loop(record)[0] + x, [True]),
    ):
        recorded.clear()
        tf.function(lambda body=body: loop(body))()
        assert recorded == expected
    recorded.clear()
    tf.function(lambda: record(loop(lambda i: i)[0]))()
    tf.function(lambda: branches(tf.constant(1)))()
    loop(record)  # runs eagerly, twice
    assert recorded == [False] * 5


def test_graph_in_call():
    recorded = []

    class Recorder(keras.layers.Layer):
        def call(self, x):
            recorded.append(graph_in_call("model"))
            return x

    class Loop(keras.layers.Layer):
        def call(self, x):
            record = Recorder()
            return tf.while_loop(lambda i, _: i < 2, lambda i, y: (i + 1, record(y)), [0, x])[1]

    class Branch(keras.layers.Layer):
        def call(self, x):
            return tf.cond(tf.reduce_sum(x) > 0, lambda: Recorder()(x), lambda: x)

    class Function(keras.layers.Layer):
        def call(self, x):
            return tf.function(Recorder(), autograph=False)(x)

    def calls(layer, x):
        return keras.Sequential([layer], name="model")(x)

    def in_loop(call):
        return lambda x: tf.while_loop(lambda i, _: i < 2, lambda i, y: (i + 1, call(y)), [0, x])[1]

    for call, expected in (
        (lambda x: calls(Recorder(), x), None),
        (lambda x: calls(Loop(), x), "loop"),
        (lambda x: calls(Branch(), x), "branch"),
        (lambda x: calls(Function(), x), "function"),
        (in_loop(lambda x: calls(Recorder(), x)), None),
        (in_loop(lambda x: calls(Loop(), x)), "loop"),
    ):
        recorded.clear()
        tf.function(call, autograph=False)(tf.ones([2, 3]))
        assert recorded and recorded[-1] == expected


@pytest.mark.parametrize("graph", [False, True])
def test_in_recompute_grad(graph):
    recorded = []

    @tf.recompute_grad
    def recomputed(x):
        recorded.append(in_recompute_grad())
        return x**2

    def gradient(x):
        recorded.append(in_recompute_grad())
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = recomputed(x)
        return tape.gradient(y, x)

    function = tf.function(gradient, autograph=False) if graph else gradient
    assert function(tf.constant(3.0)).numpy() == 6
    assert recorded == [False, True, True]
