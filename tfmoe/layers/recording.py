"""What the mixtures of a model decide while it runs, for code that asks for it.

Axes: T tokens, D model.
"""

import contextlib
import threading
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfmoe.gating.routing import Routing


class Recording(NamedTuple):
    """One call of a mixture at evaluation.

    Attributes:
        layer: the mixture.
        routing: its gate's `Routing` of the T tokens that are not masked, before any capacity.
        tokens: `[T, D]`, these tokens.
        places: `[T]` int64, the index of each token among all positions of the call, masked ones
            included.
        shape: `[rank - 1]` int32, the shape of the inputs without their last axis.
        graph: in which the layer ran; tensors of a graph can be used in that graph only.
    """

    layer: keras.layers.Layer
    routing: Routing
    tokens: tf.Tensor
    places: tf.Tensor
    shape: tf.Tensor
    graph: Any

    def check_graph(self, name):
        """Raises a ValueError if the caller is in another graph than the mixture was.

        Args:
            name: of the mixture.
        """
        if self.graph is not tf.compat.v1.get_default_graph():
            raise ValueError(
                f"{name} runs in a loop or function of TensorFlow within its model, out of which "
                "its routing cannot get: make a keras.layers.RNN with unroll=True; of other loops "
                "use compile(run_eagerly=True), of a tf.function "
                "tf.config.run_functions_eagerly(True)"
            )


class _State(threading.local):
    recordings = None


_state = _State()


@contextlib.contextmanager
def recording_routings():
    """Records every call of a mixture at evaluation, in this thread.

    Works eagerly and in a `tf.function` that is traced meanwhile; one that was traced before
    records nothing. Calls with `training=True` are not recorded. Metrics stay as they are.

    Yields:
        A list, to which each call adds a `Recording`.

    Example:
        >>> from tfmoe.layers.recording import recording_routings
        >>> layer = MoE(num_experts=4, hidden_units=3)
        >>> with recording_routings() as recordings:
        ...     outputs = layer(tf.ones([5, 2]))
        >>> [int(tf.size(each.routing.assignments.tokens)) for each in recordings]
        [20]
    """
    before, _state.recordings = _state.recordings, []
    try:
        yield _state.recordings
    finally:
        _state.recordings = before


def record(layer, tokens, places, inputs, training):
    """Adds a call of a mixture to the list of `recording_routings`, if there is one.

    Args:
        layer: the mixture, which has a `gate`.
        tokens, places: as `tfmoe.layers.positions.real_tokens` gives them.
        inputs: `[..., D]`, of the call.
        training: whether the step trains.
    """
    if _state.recordings is None or training:
        return
    if places is None:
        places = tf.range(tf.shape(tokens, tf.int64)[0])
    graph = tf.compat.v1.get_default_graph()
    shape = tf.shape(inputs)[:-1]
    routing = layer.gate(tokens)
    places = tf.reshape(places, [-1])
    _state.recordings.append(Recording(layer, routing, tokens, places, shape, graph))
