"""From sentences as strings to what a language model reads, and back.

Axes: B sentences, R rows that sentences are cut into, T tokens of all sentences, V vocabulary.
"""

import tensorflow as tf

from tfmoe.models.word_predictor import START
from tfmoe.ops.arguments import positive
from tfmoe.serving.signatures import at_least_one, padded


class Sentences:
    """The words of a language model.

    Args:
        split: function of `[B]` strings to ragged `[B, words]`.
        table: lookup table from words to int32 ids.
        words: list of V strings, by id.
        max_length: predictions of a row.

    Raises:
        ValueError: if `max_length` is under 1.
    """

    def __init__(self, split, table, words, max_length):
        self.split = split
        self.table = table
        self.words = tf.constant(words)
        self.max_length = positive("max_length", max_length)

    def ids(self, sentences):
        """Ragged `[B, words]` int32 of `[B]` strings."""
        words = self.split(sentences)
        return words.with_flat_values(self.table.lookup(words.flat_values))

    def spelled(self, ids):
        """The words of ids, strings."""
        return tf.gather(self.words, ids)

    def rows(self, ids):
        """Cuts sentences into rows.

        Args:
            ids: ragged `[B, words]`.

        Returns:
            `[R, steps]` int32, padded with 0, in the order of the sentences; and ragged
            `[B, words + 1]`, what the model reads of each sentence. Both have the same T tokens in
            the same order.
        """
        inputs = begun(ids)
        lengths = inputs.row_lengths()
        number = -(-lengths // self.max_length)
        first = tf.ragged.range(number).flat_values * self.max_length
        steps = tf.minimum(tf.repeat(lengths, number) - first, self.max_length)
        return at_least_one(padded(inputs.flat_values, steps, 0)), inputs


def begun(ids):
    """Ragged `[B, words]` ids behind `<S>`: `[B, words + 1]`."""
    return tf.concat([tf.fill([ids.nrows(), 1], START), ids], axis=1)
