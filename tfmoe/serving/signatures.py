"""Signatures of exported functions, and routings of padded sentences.

Axes: B sentences, S longest sentence, T tokens of all sentences, K maximum experts of a token.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tfmoe.layers.mixture_layer import mixtures_of


class Signature(NamedTuple):
    """A function to export.

    Attributes:
        function: function of tensors that returns `{name: tensor}`.
        inputs: list of named `tf.TensorSpec`, its arguments.
        description: one line for the manifest.
    """

    function: Callable
    inputs: list
    description: str


def graph_function(function, *specs):
    """A `tf.function` that is traced once.

    Args:
        function: a function of tensors.
        *specs: the specifications of its arguments.
    """
    return tf.function(function, input_signature=specs, autograph=False)


def checked(values, valid, message):
    """Checks the values of an input.

    Args:
        values: `[…]`.
        valid: `[…]` bool, of the same shape.
        message: start of the error message, which the invalid values follow.

    Returns:
        `values`.

    Raises:
        tf.errors.InvalidArgumentError: if a value is not valid.
    """
    invalid = tf.boolean_mask(values, ~valid)
    check = tf.debugging.Assert(tf.equal(tf.size(invalid), 0), [message, invalid])
    with tf.control_dependencies([check]):
        return tf.identity(values)


def ragged_ids(ids, vocabulary_size):
    """Removes the padding of ids.

    Args:
        ids: `[B, S]` int32, padded at the end with 0.
        vocabulary_size: V.

    Returns:
        Ragged `[B, ids]` int32.

    Raises:
        tf.errors.InvalidArgumentError: if an id is not from 0 to V - 1, or follows padding.
    """
    is_id = tf.not_equal(ids, 0)
    lengths = tf.reduce_sum(tf.cast(is_id, tf.int32), axis=1)
    follows_padding = is_id & (tf.range(tf.shape(ids)[1]) >= lengths[:, None])
    ids = checked(
        ids,
        (ids >= 0) & (ids < vocabulary_size) & ~follows_padding,
        f"ids must be from 1 to {vocabulary_size - 1}, and 0 after the end of a sentence, got",
    )
    return tf.RaggedTensor.from_tensor(ids, lengths)


def per_sentence(values, num_sentences, name):
    """Broadcasts an input with one value to all sentences.

    Args:
        values: `[1]` or `[B]`. A scalar has the effect of `[1]`: TensorFlow does not compare the
            shape of a tensor with that of the signature, and earlier exports took scalars.
        num_sentences: B.
        name: name of the input, for the error message.

    Returns:
        `[B]`.

    Raises:
        tf.errors.InvalidArgumentError: if `values` has another size.
    """
    size = tf.size(values)
    check = tf.debugging.Assert(
        (size == 1) | (size == num_sentences),
        [
            f"{name} must have one value, or one for each sentence; sentences:",
            num_sentences,
            "values:",
            size,
        ],
    )
    with tf.control_dependencies([check]):
        return tf.broadcast_to(values, [num_sentences])


def padded(values, lengths, padding):
    """Splits the concatenated tokens of all sentences into padded rows.

    Args:
        values: `[T, …]`.
        lengths: `[B]` int64, whose sum is T.
        padding: padding value.

    Returns:
        `[B, S, …]`.
    """
    return tf.RaggedTensor.from_row_lengths(values, lengths).to_tensor(padding)


def padded_routing(routing, lengths):
    """The experts and gate values of each token.

    Args:
        routing: a `tfmoe.gating.Routing` of T tokens.
        lengths: `[B]` int64, tokens of each sentence.

    Returns:
        `[B, S, K]` int32 experts, -1 for none, and `[B, S, K]` float32 gate values, 0 for none. The
        experts of a token are sorted by gate value, largest first.
    """
    tokens, experts, gates = routing.assignments.by_token()
    num_tokens = tf.reduce_sum(lengths)

    def by_token(values, padding):
        ragged = tf.RaggedTensor.from_value_rowids(values, tf.cast(tokens, tf.int64), num_tokens)
        return ragged.to_tensor(padding)

    experts, gates = by_token(experts, -1), by_token(tf.cast(gates, tf.float32), 0.0)
    order = tf.argsort(gates, axis=1, direction="DESCENDING", stable=True)
    experts, gates = (tf.gather(values, order, batch_dims=1) for values in (experts, gates))
    return padded(experts, lengths, -1), padded(gates, lengths, 0.0)


def padded_routings(model, recordings, lengths):
    """The experts and gate values of each token in each mixture called by a model.

    Args:
        model: a Keras model whose mixtures all process the T tokens.
        recordings: the recordings of `tfmoe.layers.recording.recording_routings` during the call.
        lengths: `[B]` int64, tokens of each sentence.

    Returns:
        `{NAME_experts, NAME_gates}` in the format of `padded_routing`, by the names of
        `mixtures_of`.

    Raises:
        ValueError: if a mixture was called in a loop or function within the model.
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
    """Adds a row or column of padding to `[B, S]` int32 if it has none, for loops over steps."""
    missing = tf.cast(tf.equal(tf.shape(rows), 0), tf.int32)
    return tf.pad(rows, [[0, missing[0]], [0, missing[1]]])
