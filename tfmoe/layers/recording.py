"""Records the routings of the mixtures in a model.

Axes: T tokens, D model.
"""

import contextlib
import threading
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfmoe.gating.routing import Routing


class Recording(NamedTuple):
    """One call of a mixture in evaluation.

    Attributes:
        layer: the mixture.
        routing: the gate's `Routing` of the T tokens that are not masked, before any capacity.
        tokens: `[T, D]`, the features of these tokens that the gate reads.
        positions: `[T]` int64, the index of each token among all positions of the call, including
            masked positions.
        shape: `[rank - 1]` int32, the shape of the inputs without the last axis.
        graph: the graph in which the layer ran; its tensors can be used in this graph only.
    """

    layer: keras.layers.Layer
    routing: Routing
    tokens: tf.Tensor
    positions: tf.Tensor
    shape: tf.Tensor
    graph: Any

    def check_graph(self, name):
        """Raises a `ValueError` if the caller is not in the graph of the mixture.

        Args:
            name: the mixture's name, for the error.
        """
        if self.graph is not tf.compat.v1.get_default_graph():
            raise ValueError(
                f"{name} runs in a loop or tf.function inside its model, so its routing cannot be "
                "read outside of it: create keras.layers.RNN with unroll=True; for other loops use "
                "compile(run_eagerly=True), for a tf.function "
                "tf.config.run_functions_eagerly(True)"
            )


class _State(threading.local):
    recordings = None


_state = _State()


@contextlib.contextmanager
def recording_routings():
    """Records every call of a mixture in evaluation, in this thread.

    It works eagerly and in a `tf.function` that is traced inside the context; a function that was
    traced before records nothing. Calls with `training=True` are not recorded. Metrics are not
    changed.

    Yields:
        A list to which each call appends a `Recording`.

    Example:
        >>> from tfmoe.layers.recording import recording_routings
        >>> layer = MoE(num_experts=4, hidden_units=3)
        >>> with recording_routings() as recordings:
        ...     outputs = layer(tf.ones([5, 2]))
        >>> [int(tf.size(recording.routing.assignments.tokens)) for recording in recordings]
        [20]
    """
    outer, _state.recordings = _state.recordings, []
    try:
        yield _state.recordings
    finally:
        _state.recordings = outer


def record(layer, gate_inputs, positions, inputs, training):
    """Appends a call of a mixture to the list of `recording_routings`, if it is active.

    Args:
        layer: the mixture, which has a `gate`.
        gate_inputs: `tfmoe.layers.gate_inputs.GateInputs`, of the T tokens.
        positions: as returned by `tfmoe.layers.positions.real_tokens`.
        inputs: `[..., D]`, the inputs of the call.
        training: whether the step trains.
    """
    if _state.recordings is None or training:
        return
    tokens = gate_inputs.rows
    if positions is None:
        positions = tf.range(tf.shape(tokens, tf.int64)[0])
    graph = tf.compat.v1.get_default_graph()
    shape = tf.shape(inputs)[:-1]
    routing = gate_inputs.route(layer.gate)
    positions = tf.reshape(positions, [-1])
    _state.recordings.append(Recording(layer, routing, tokens, positions, shape, graph))
