"""Conversion between strings and the ids that a language model reads.

Axes: B sentences, R rows, into which sentences are split, T tokens of all sentences, V vocabulary.
"""

import tensorflow as tf

from tfmoe.models.word_predictor import START
from tfmoe.ops.arguments import positive
from tfmoe.serving.signatures import at_least_one, padded


class Sentences:
    """Tokenization and vocabulary of a language model.

    Args:
        split: function from `[B]` strings to ragged `[B, words]`.
        table: lookup table from words to int32 ids.
        words: list of V strings, by id.
        max_length: number of predictions per row.

    Raises:
        ValueError: if `max_length` is below 1.
    """

    def __init__(self, split, table, words, max_length):
        self.split = split
        self.table = table
        self.words = tf.constant(words)
        self.max_length = positive("max_length", max_length)

    def ids(self, sentences):
        """Converts `[B]` strings to ids, ragged `[B, words]` int32."""
        words = self.split(sentences)
        return words.with_flat_values(self.table.lookup(words.flat_values))

    def to_words(self, ids):
        """Converts ids to words, a string tensor of the same shape."""
        return tf.gather(self.words, ids)

    def rows(self, ids):
        """Splits sentences into rows.

        Args:
            ids: ragged `[B, words]`.

        Returns:
            `[R, steps]` int32, padded with 0, in the order of the sentences; and ragged
            `[B, words + 1]`, the model's inputs of each sentence. Both contain the same T tokens in
            the same order.
        """
        inputs = prepend_start(ids)
        lengths = inputs.row_lengths()
        num_rows = -(-lengths // self.max_length)
        first = tf.ragged.range(num_rows).flat_values * self.max_length
        steps = tf.minimum(tf.repeat(lengths, num_rows) - first, self.max_length)
        return at_least_one(padded(inputs.flat_values, steps, 0)), inputs


def prepend_start(ids):
    """Prepends `<S>` to ragged `[B, words]` ids: `[B, words + 1]`."""
    return tf.concat([tf.fill([ids.nrows(), 1], START), ids], axis=1)
