"""Inspection of mixtures that are called repeatedly, in loops and functions, or not at all."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from inspection.small_models import (
    ALL,
    RNG,
    TOKENS,
    assert_routed,
    embedding,
    mixture,
    use_inputs_as_logits,
)

from tfmoe.inspection import mixtures_of, route_batches, route_text


def test_layer_called_twice():
    inputs = keras.Input([None], dtype="int32")
    layer = mixture()
    model = keras.Model(inputs, layer(layer(embedding()(inputs))))
    routed = route_text(use_inputs_as_logits(model), [TOKENS])
    assert list(routed) == ["moe", "moe (call 2)"]
    assert_routed(routed["moe"], *ALL)
    assert routed["moe (call 2)"].tokens.tolist() == ALL[0]


class Cell(keras.layers.Layer):
    """A recurrent cell that is a mixture."""

    state_size = output_size = 3

    def __init__(self):
        super().__init__()
        self.mixture = mixture()

    def build(self, input_shape):
        self.mixture.build(input_shape)

    def call(self, inputs, states):
        return self.mixture(inputs), states


@pytest.mark.parametrize("eager", [False, True])
def test_steps_of_a_recurrent_layer(eager):
    recurrent = keras.layers.RNN(Cell(), return_sequences=True, unroll=True)
    model = keras.Sequential([keras.Input([3], dtype="int32"), embedding(), recurrent])
    model.compile("sgd", "mse", run_eagerly=eager)
    assert_routed(route_text(use_inputs_as_logits(model), [TOKENS])["moe"], *ALL)


def test_routing_in_a_loop_cannot_be_recorded():
    model = keras.Sequential(
        [keras.Input([3], dtype="int32"), embedding(), keras.layers.RNN(Cell())]
    )
    with pytest.raises(ValueError, match=r"moe runs in a loop .*keras.layers.RNN with unroll=True"):
        route_text(model, [TOKENS])


class Loop(keras.layers.Layer):
    """Runs a mixture on each row, in a TensorFlow loop."""

    def __init__(self):
        super().__init__()
        self.mixture = mixture()

    def build(self, input_shape):
        self.mixture.build(input_shape)

    def call(self, inputs):
        def body(i, outputs):
            return i + 1, outputs.write(i, self.mixture(inputs[i : i + 1]))

        outputs = tf.TensorArray(inputs.dtype, tf.shape(inputs)[0], element_shape=[1, 3])
        _, outputs = tf.while_loop(lambda i, _: i < tf.shape(inputs)[0], body, [0, outputs])
        return outputs.concat()


def test_routing_in_an_eager_loop_is_recorded():
    x = RNG.standard_normal((2, 3)).astype(np.float32)
    model = keras.Sequential([keras.Input([3]), Loop()])
    with pytest.raises(ValueError, match=r"moe runs in a loop .*compile\(run_eagerly=True\)"):
        route_batches(model, [x])
    model.compile("sgd", "mse", run_eagerly=True)
    first, second = route_batches(model, [x]).values()
    counts = np.bincount([*first.experts, *second.experts], minlength=3)
    expected = mixtures_of(model)["moe"].route(x).assignments.counts
    assert counts.tolist() == expected.numpy().tolist()


class Traced(keras.layers.Layer):
    """Calls a mixture in a `tf.function`."""

    def __init__(self):
        super().__init__()
        self.mixture = mixture()

    def build(self, input_shape):
        self.mixture.build(input_shape)

    @tf.function
    def call(self, inputs):
        return self.mixture(inputs)


def test_function_traced_before_warns():
    x = np.ones((2, 3), np.float32)
    model = keras.Sequential([keras.Input([3]), Traced()])
    with pytest.warns(UserWarning, match="no routing was recorded for moe: .*traced before"):
        assert route_batches(model, [x]) == {}
    tf.config.run_functions_eagerly(True)
    try:
        assert route_batches(model, [x])["moe"].lines.tolist() == [1, 2]
    finally:
        tf.config.run_functions_eagerly(False)


class InTraining(keras.Model):
    def __init__(self):
        super().__init__()
        self.always, self.training_only = mixture("always"), mixture("training_only")

    def call(self, x, training=False):
        return self.always(x) + (self.training_only(x) if training else 0)


def test_mixture_that_does_not_run_warns():
    model, x = InTraining(), np.ones((2, 3), np.float32)
    model(x, training=True)
    with pytest.warns(UserWarning, match="no routing was recorded for training_only: "):
        assert list(route_batches(model, [x])) == ["always"]
