"""The score of a hypothesis."""

from typing import NamedTuple

import tensorflow as tf

TINY = 1.2e-38  # about the least normal float32: the least attention that a score counts
NEVER = float("-inf")


class Scoring(NamedTuple):
    """Scores a hypothesis Y for a source X:

        s(Y, X) = log P(Y|X) / lp(Y) + cp(X, Y)
        lp(Y) = ((5 + |Y|) / (5 + 1))^α
        cp(X, Y) = β Σ_i log(min(Σ_j p_ij, 1))

    with p_ij the attention of target step j to source position i. `|Y|` and the sum over j count
    the end symbol, so that `lp` of the empty translation is 1.

    Scores are computed in float64: float32 logarithms and powers can differ in the last bit with
    the row in which a hypothesis lies, and the order of hypotheses must not depend on it.

    Attributes:
        length_penalty: α, at least 0.
        coverage_penalty: β, at least 0.
        source_mask: `[B, S]` bool, which source positions are real.
    """

    length_penalty: float
    coverage_penalty: float
    source_mask: tf.Tensor

    def scores(self, log_probabilities, lengths, coverage):
        """The scores of hypotheses.

        Args:
            log_probabilities: `[B, M]` float32 `log P(Y|X)`.
            lengths: `|Y|`, int32, a scalar or `[B, 1]`.
            coverage: `[B, M, S]` float32 `Σ_j p_ij`. A value of 0 counts as the least float32:
                with `-inf` for its logarithm, all translations would score the same.

        Returns:
            `[B, M]` float32; `-inf` instead of NaN.
        """
        scores = tf.cast(log_probabilities, tf.float64) / self.divisor(lengths)
        if self.coverage_penalty:
            covered = tf.math.log(tf.cast(tf.clip_by_value(coverage, TINY, 1.0), tf.float64))
            covered = tf.where(self.source_mask[:, None], covered, 0.0)
            scores += self.coverage_penalty * tf.reduce_sum(covered, axis=2)
        return no_nan(tf.cast(scores, tf.float32))

    def best_possible(self, log_probability, max_length):
        """The bound that no continuation of a hypothesis exceeds: `log P` can only fall, `lp` only
        grow to that of `max_length`, and `cp` is at most 0.

        Args:
            log_probability: `[B]` float32, at most 0, of hypotheses that have not ended.
            max_length: `[B]` int32.

        Returns:
            `[B]` float32 scores.
        """
        bound = tf.cast(log_probability, tf.float64) / self.divisor(max_length)
        return tf.cast(bound, tf.float32)

    def divisor(self, lengths):
        """`lp` of hypotheses with so many symbols, float64."""
        return ((5.0 + tf.cast(lengths, tf.float64)) / 6.0) ** self.length_penalty


def no_nan(x):
    """`x`, with `-inf` instead of NaN."""
    return tf.where(tf.math.is_nan(x), NEVER, x)
