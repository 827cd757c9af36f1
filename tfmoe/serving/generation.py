"""Text generation by a language model, word by word.

Axes: B sentences, P longest prefix with its start, L most words to generate, D model, V vocabulary.
"""

import math

import tensorflow as tf

from tfmoe.models.blocks import choose_rows
from tfmoe.models.word_predictor import END, START, UNKNOWN
from tfmoe.serving.sentences import prepend_start

MAX_GENERATED_WORDS = 10_000


class Generator:
    """Continues sentences. Block states are kept, so every word has the same cost.

    A sentence longer than `max_length` continues in a new row, whose context starts with the last
    word of the previous row.

    Args:
        model: a built `LanguageModel`.
        max_length: number of predictions per row.
    """

    def __init__(self, model, max_length):
        self.model = model
        self.max_length = max_length

    def write(self, ids, length, temperature, seed):
        """Continues prefixes.

        Args:
            ids: ragged `[B, words]` int32.
            length: `[B]` int32, maximum number of words to generate. L is the largest.
            temperature: `[B]` float32, see `sample_word`.
            seed: `[B]` int32.

        Returns:
            `[B, L]` ids, `[B]` number of generated words, `[B]` bool, whether the sentence ended.
        """
        num_rows = tf.cast(ids.nrows(), tf.int32)
        prefix = prepend_start(ids)
        lengths = tf.cast(prefix.row_lengths(), tf.int32)
        features, states = self._read(prefix.to_tensor(), lengths)
        longest = tf.reduce_max(tf.pad(length, [[1, 0]]))  # 0 without sentences
        steps = tf.range(longest)
        # Each sentence has its own seed, so its draws do not depend on the batch.
        draws = tf.map_fn(
            lambda s: tf.random.stateless_uniform([MAX_GENERATED_WORDS], [s, 0], alg="philox"),
            seed,
            fn_output_signature=tf.TensorSpec([MAX_GENERATED_WORDS], tf.float32),
        )

        def unfinished(t, ended):
            return ~ended & (t < length)

        def body(t, features, states, written, ended):
            word = sample_word(self._logits(features), temperature, draws[:, t])
            is_open = unfinished(t, ended)
            ended |= is_open & tf.equal(word, END)
            word = tf.where(is_open, word, END)
            written = tf.where(steps == t, word[:, None], written)
            features, states = tf.nest.map_structure(
                lambda new, old: tf.ensure_shape(new, old.shape),
                self._step(word, lengths + t, states),
                (features, states),
            )
            return t + 1, features, states, written, ended

        _, _, _, written, ended = tf.while_loop(
            lambda t, *others: tf.reduce_any(unfinished(t, others[-1])),
            body,
            (
                tf.constant(0),
                features,
                states,
                tf.zeros([num_rows, longest], tf.int32),
                tf.zeros([num_rows], tf.bool),
            ),
        )
        counts = tf.reduce_sum(tf.cast(tf.not_equal(written, END), tf.int32), axis=1)
        return written, counts, ended

    def _step(self, tokens, positions, states):
        """Reads the next word of each sentence.

        Args:
            tokens: `[B]` int32.
            positions: `[B]` int32, position in the sentence, 0 for `<S>`.
            states: states of the blocks.

        Returns:
            `[B, D]` features and the new states.
        """
        starts_row = tf.equal(positions % self.max_length, 0)

        def restarted():
            initial = self.model.initial_states(tf.shape(tokens)[0], self.max_length)
            return choose_rows(starts_row, initial, states)

        # Caches are large, and rarely does a row start: nothing is copied without need.
        states = tf.cond(tf.reduce_any(starts_row), restarted, lambda: states)
        return self.model.step(tokens, states)

    def _read(self, tokens, lengths):
        """Reads prefixes.

        Args:
            tokens: `[B, P]` int32, padded.
            lengths: `[B]` int32.

        Returns:
            `[B, D]` features and the states after the last word of each prefix.
        """
        num_rows = tf.shape(tokens)[0]

        def body(t, features, states):
            outputs = self._step(tokens[:, t], tf.fill([num_rows], t), states)
            return t + 1, *choose_rows(t < lengths, outputs, (features, states))

        features = tf.zeros([num_rows, self.model.d_model], self.model.compute_dtype)
        _, features, states = tf.while_loop(
            lambda t, *_: t < tf.shape(tokens)[1],
            body,
            (tf.constant(0), features, self.model.initial_states(num_rows, self.max_length)),
        )
        return features, states

    def _logits(self, features):
        """`[B, V]` logits, `-inf` for words that are never generated."""
        ids = tf.range(self.model.vocabulary_size)
        excluded = tf.equal(ids, START) | tf.equal(ids, UNKNOWN)
        return tf.where(excluded, float("-inf"), self.model.word_logits(features))


def sample_word(logits, temperature, draws):
    """Samples from `softmax(logits / temperature)` by inverting its cumulative distribution.

    Args:
        logits: `[B, V]` float32, `-inf` for excluded words.
        temperature: `[B]` float32; 0 selects the largest logit, the first one in case of ties.
        draws: `[B]` float32, uniform in [0, 1).

    Returns:
        `[B]` int32.
    """
    best = tf.argmax(logits, axis=1, output_type=tf.int32)
    return tf.cond(
        tf.reduce_any(temperature > 0),
        lambda: tf.where(temperature > 0, sampled_word(logits, temperature, draws), best),
        lambda: best,
    )


def sampled_word(logits, temperature, draws):
    """As `sample_word`, for positive temperatures: of sentences with another one, any word.

    It looks for the word in the cumulative sums of blocks of words, then in those within the block:
    a cumulative sum over all words takes several times as long as the rest of the step.
    """
    # Sums in float64: in float32 they would lose small probabilities of a large vocabulary.
    logits = tf.cast(logits - tf.reduce_max(logits, axis=1, keepdims=True), tf.float64)
    divisor = tf.cast(tf.where(temperature > 0, temperature, 1.0), tf.float64)
    weights = tf.exp(logits / divisor[:, None])
    num_words = weights.shape[1]
    size = math.isqrt(num_words - 1) + 1  # of a block; there are at most as many blocks
    weights = tf.pad(weights, [[0, 0], [0, -num_words % size]])
    blocks = tf.reshape(weights, [-1, weights.shape[1] // size, size])
    totals = tf.cumsum(tf.reduce_sum(blocks, axis=2), axis=1)
    points = tf.cast(draws, tf.float64)[:, None] * totals[:, -1:]
    block = position_in(totals, points)
    points -= tf.gather(tf.pad(totals, [[0, 0], [1, 0]]), block, axis=1, batch_dims=1)
    within = tf.cumsum(tf.gather(blocks, block[:, 0], axis=1, batch_dims=1), axis=1)
    return (block * size + position_in(within, points))[:, 0]


def position_in(sums, points):
    """The first of the cumulative sums `[B, N]` that is larger than `points` `[B, 1]`, `[B, 1]`. If
    a point is not below the last sum, which rounding can cause, the first that equals the last.
    """
    below = sums[:, -1:] * (1 - 2**-52)
    return tf.searchsorted(sums, tf.minimum(points, below), side="right")
