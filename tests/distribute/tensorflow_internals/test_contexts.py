"""Where code runs.

A failure here says which private interface of TensorFlow or Keras changed; other tests would say
only that training fails.
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
    in_loop_of_call,
    in_while_loop,
    initialised,
    replica_context,
    replica_number,
)
from tfmoe.distribute.tensorflow_internals.contexts import local_replica


def test_replica_contexts(strategy_of):
    assert replica_context() is None
    seen = []

    @tf.function
    def run():
        return strategy_of(2).run(
            lambda: seen.append(
                (local_replica(replica_context()), replica_number(replica_context()))
            )
        )

    run()
    assert sorted(seen) == [(0, 0), (1, 1)]  # on one worker they are the same


def test_whether_devices_were_made(strategy_of):
    strategy_of(1)
    assert context.context()._initialized is True and initialised()


def test_steps_are_told_from_plain_calls():
    """Keras takes its steps in `strategy.run`, with the default strategy too."""
    assert issubclass(distribute_lib._DefaultReplicaContext, tf.distribute.ReplicaContext)
    assert not collectives.in_step()
    found = []
    tf.function(lambda: found.append(collectives.in_step()))()
    tf.distribute.get_strategy().run(lambda: found.append(collectives.in_step()))
    inputs = keras.Input([2])
    layer = keras.layers.Lambda(lambda x: found.append(collectives.in_step()) or x)
    model = keras.Model(inputs, layer(inputs))
    del found[2:]  # of the symbolic call
    model.compile(loss="mse")
    model.evaluate(np.zeros([2, 2]), np.zeros([2, 2]), verbose=0)
    assert found == [False, True, True]


def test_whether_xla_compiles():
    found = []

    def note(x):
        found.append(compiles_for_xla())
        return x

    inner = tf.function(note)
    for compiles in (True, False):
        tf.function(note, jit_compile=compiles)(1.0)
        tf.function(lambda x: inner(x), jit_compile=compiles)(1.0 + compiles)
    note(1.0)
    assert found == [True, True, False, False, False]


@pytest.mark.parametrize("compiles", [True, False])
def test_whether_keras_compiles_for_xla(compiles):
    found = []
    inputs = keras.Input([2])
    outputs = keras.layers.Lambda(lambda x: found.append(compiles_for_xla()) or x)(inputs)
    model = keras.Model(inputs, outputs)
    model.compile(loss="mse", jit_compile=compiles)
    found.clear()  # of the symbolic call
    model.evaluate(np.zeros([2, 2]), np.zeros([2, 2]), verbose=0)
    assert found == [compiles]


def test_whether_a_loop_is_traced():
    found = []

    def note(x):
        found.append(in_while_loop())
        return x

    def loop(body):
        return tf.while_loop(lambda i: i < 2, lambda i: [body(i) + 1], [tf.constant(0)])

    def branches(x):
        return tf.cond(x > 0, lambda: note(x), lambda: note(x))

    nested = tf.function(note)
    for body, expected in (
        (note, [True]),
        (branches, [True, True]),
        (lambda x: nested(x), [True]),
        (lambda x: loop(note)[0] + x, [True]),
    ):
        found.clear()
        tf.function(lambda body=body: loop(body))()
        assert found == expected
    found.clear()
    tf.function(lambda: note(loop(lambda i: i)[0]))()
    tf.function(lambda: branches(tf.constant(1)))()
    loop(note)  # runs eagerly, twice
    assert found == [False] * 5


def test_whether_a_loop_began_within_a_call():
    found = []

    class Note(keras.layers.Layer):
        def call(self, x):
            found.append(in_loop_of_call("model"))
            return x

    class Loop(keras.layers.Layer):
        def call(self, x):
            note = Note()
            return tf.while_loop(lambda i, _: i < 2, lambda i, y: (i + 1, note(y)), [0, x])[1]

    def calls(layer, x):
        return keras.Sequential([layer], name="model")(x)

    def in_loop(call):
        return lambda x: tf.while_loop(lambda i, _: i < 2, lambda i, y: (i + 1, call(y)), [0, x])[1]

    for call, expected in (
        (lambda x: calls(Note(), x), False),
        (lambda x: calls(Loop(), x), True),
        (in_loop(lambda x: calls(Note(), x)), False),
        (in_loop(lambda x: calls(Loop(), x)), True),
    ):
        found.clear()
        tf.function(call, autograph=False)(tf.ones([2, 3]))
        assert found and found[-1] == expected
