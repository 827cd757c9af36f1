"""What all exported functions have in common: a signature, and routings of padded sentences.

Axes: B sentences, S longest sentence, T tokens of all sentences, K most experts of a token.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tfmoe.layers.mixture_layer import mixtures_of


class Signature(NamedTuple):
    """A function to be exported.

    Attributes:
        function: of tensors, returns `{name: tensor}`.
        inputs: list of `tf.TensorSpec` with names, its arguments.
        description: what it does, a line.
    """

    function: Callable
    inputs: list
    description: str


def one_of_each(values, number, name):
    """One value for all sentences, or one for each.

    Args:
        values: `[1]` or `[B]`.
        number: B.
        name: of the input, for the error.

    Returns:
        `[B]`.
    """
    size = tf.size(values)
    check = tf.debugging.Assert(
        (size == 1) | (size == number),
        [f"{name} must have one value, or one for each sentence; sentences:", number, name, size],
    )
    with tf.control_dependencies([check]):
        return tf.broadcast_to(values, [number])


def padded(values, lengths, padding):
    """Cuts the tokens of all sentences, one after the other, into padded rows.

    Args:
        values: `[T, …]`.
        lengths: `[B]` int64, their sum is T.
        padding: value for what is missing.

    Returns:
        `[B, S, …]`.
    """
    return tf.RaggedTensor.from_row_lengths(values, lengths).to_tensor(padding)


def padded_routing(routing, lengths):
    """Experts and gate values of each token.

    Args:
        routing: a `tfmoe.gating.Routing` of T tokens.
        lengths: `[B]` int64, tokens of each sentence.

    Returns:
        `[B, S, K]` int32 experts, -1 for none, and `[B, S, K]` float32 gate values, 0 for none;
        of each token the largest gate value first.
    """
    tokens, experts, gates = routing.assignments.by_token()
    num_tokens = tf.reduce_sum(lengths)

    def by_token(values, padding):
        ragged = tf.RaggedTensor.from_value_rowids(values, tf.cast(tokens, tf.int64), num_tokens)
        return ragged.to_tensor(padding)

    experts, gates = by_token(experts, -1), by_token(tf.cast(gates, tf.float32), 0.0)
    order = tf.argsort(gates, axis=1, direction="DESCENDING", stable=True)
    experts, gates = (tf.gather(each, order, batch_dims=1) for each in (experts, gates))
    return padded(experts, lengths, -1), padded(gates, lengths, 0.0)


def padded_routings(model, recordings, lengths):
    """Experts and gate values of each token in each mixture that ran in a call of a model.

    Args:
        model: a Keras model, all of whose mixtures see the T tokens.
        recordings: what `tfmoe.layers.recording.recording_routings` recorded of the call.
        lengths: `[B]` int64, tokens of each sentence.

    Returns:
        `{NAME_experts, NAME_gates}` as `padded_routing` gives them, by the names of `mixtures_of`.

    Raises:
        ValueError: if a mixture ran in a loop or function within the model.
    """
    names = {id(mixture): name for name, mixture in mixtures_of(model).items()}
    outputs = {}
    for recording in recordings:
        name = names[id(recording.layer)]
        recording.check_graph(name)
        experts, gates = padded_routing(recording.routing, lengths)
        outputs[f"{name}_experts"], outputs[f"{name}_gates"] = experts, gates
    return outputs


def at_least_one(rows):
    """`[B, S]` int32 with a row and a column of padding if there is none: loops over steps need
    one.
    """
    missing = tf.cast(tf.equal(tf.shape(rows), 0), tf.int32)
    return tf.pad(rows, [[0, missing[0]], [0, missing[1]]])
