"""How a language model continues sentences, a word at a time.

Axes: B sentences, P longest prefix with its start, L words to write, D model, V vocabulary.
"""

import tensorflow as tf

from tfmoe.models.blocks import choose_rows
from tfmoe.models.word_predictor import END, START, UNKNOWN
from tfmoe.serving.sentences import begun

LONGEST_TEXT = 10_000  # words that are written at most


class Generator:
    """Continues sentences at the same cost for each word: states are kept.

    A sentence longer than `max_length` goes on in a new row, in which the model knows only the last
    word of the one before.

    Args:
        model: a built `LanguageModel`.
        max_length: predictions of a row.
    """

    def __init__(self, model, max_length):
        self.model = model
        self.max_length = max_length

    def write(self, ids, length, temperature, seed):
        """Continues prefixes.

        Args:
            ids: ragged `[B, words]` int32.
            length: scalar int32, the most words to write.
            temperature: scalar float32, see `draw_word`.
            seed: `[B]` int32.

        Returns:
            `[B, L]` ids, `[B]` how many of them are words, `[B]` whether the sentence ended.
        """
        num_rows = tf.cast(ids.nrows(), tf.int32)
        prefix = begun(ids)
        lengths = tf.cast(prefix.row_lengths(), tf.int32)
        features, states = self._read(prefix.to_tensor(), lengths)
        places = tf.range(length)
        # One row of draws for each sentence, by its own seed: nothing depends on the batch.
        draws = tf.map_fn(
            lambda s: tf.random.stateless_uniform([LONGEST_TEXT], [s, 0], alg="philox"),
            seed,
            fn_output_signature=tf.TensorSpec([LONGEST_TEXT], tf.float32),
        )

        def body(t, features, states, written, ended):
            word = draw_word(self._logits(features), temperature, draws[:, t])
            word = tf.where(ended, END, word)
            ended |= tf.equal(word, END)
            written = tf.where(places == t, word[:, None], written)
            features, states = tf.nest.map_structure(
                lambda new, old: tf.ensure_shape(new, old.shape),
                self._step(word, lengths + t, states),
                (features, states),
            )
            return t + 1, features, states, written, ended

        _, _, _, written, ended = tf.while_loop(
            lambda t, *others: (t < length) & ~tf.reduce_all(others[-1]),
            body,
            (
                tf.constant(0),
                features,
                states,
                tf.zeros([num_rows, length], tf.int32),
                tf.zeros([num_rows], tf.bool),
            ),
        )
        counts = tf.reduce_sum(tf.cast(tf.not_equal(written, END), tf.int32), axis=1)
        return written, counts, ended

    def _step(self, tokens, positions, states):
        """Reads a word of each sentence.

        Args:
            tokens: `[B]` int32.
            positions: `[B]` int32, words of the sentence before them, `<S>` counted.
            states: of the blocks.

        Returns:
            `[B, D]` features and the new states.
        """
        begins = tf.equal(positions % self.max_length, 0)
        initial = self.model.initial_states(tf.shape(tokens)[0])
        return self.model.step(tokens, choose_rows(begins, initial, states))

    def _read(self, tokens, lengths):
        """Reads prefixes.

        Args:
            tokens: `[B, P]` int32, padded.
            lengths: `[B]` int32.

        Returns:
            `[B, D]` features and the states after the last word of each.
        """
        num_rows = tf.shape(tokens)[0]

        def body(t, features, states):
            found = self._step(tokens[:, t], tf.fill([num_rows], t), states)
            return t + 1, *choose_rows(t < lengths, found, (features, states))

        features = tf.zeros([num_rows, self.model.d_model], self.model.compute_dtype)
        _, features, states = tf.while_loop(
            lambda t, *_: t < tf.shape(tokens)[1],
            body,
            (tf.constant(0), features, self.model.initial_states(num_rows)),
        )
        return features, states

    def _logits(self, features):
        """`[B, V]`, `-inf` for what is not written."""
        ids = tf.range(self.model.vocabulary_size)
        never = tf.equal(ids, START) | tf.equal(ids, UNKNOWN)
        return tf.where(never, float("-inf"), self.model.word_logits(features))


def draw_word(logits, temperature, draws):
    """Draws from `softmax(logits / temperature)`, by the inverse of its distribution function.

    Args:
        logits: `[B, V]` float32, `-inf` for words that cannot be.
        temperature: scalar; 0 takes the largest logit, the first among equals.
        draws: `[B]` float32 in [0, 1).

    Returns:
        `[B]` int32.
    """
    best = tf.argmax(logits, axis=1, output_type=tf.int32)
    # In float64: the sum over a large vocabulary would lose small probabilities.
    logits = tf.cast(logits - tf.reduce_max(logits, axis=1, keepdims=True), tf.float64)
    divisor = tf.cast(tf.where(temperature > 0, temperature, 1.0), tf.float64)
    total = tf.cumsum(tf.exp(logits / divisor), axis=1)
    point = tf.cast(draws, tf.float64)[:, None] * total[:, -1:]
    drawn = tf.searchsorted(total, point, side="right")[:, 0]
    return tf.where(temperature > 0, drawn, best)
