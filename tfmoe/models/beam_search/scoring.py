"""The score of a hypothesis."""

from typing import NamedTuple

import tensorflow as tf

TINY = 1.2e-38  # about the smallest normal float32: the lower bound of coverage in a score
NEVER = float("-inf")


class Scoring(NamedTuple):
    """Scores a hypothesis Y for a source X:

        s(Y, X) = log P(Y|X) / lp(Y) + cp(X, Y)
        lp(Y) = ((5 + |Y|) / (5 + 1))^α
        cp(X, Y) = β Σ_i log(min(Σ_j p_ij, 1))

    with p_ij the attention weight of target step j on source position i. `|Y|` and the sum over j
    include the end symbol, so `lp` of the empty translation is 1.

    Scores are computed in float64: the last bit of a float32 logarithm or power can depend on the
    row of a hypothesis, and the order of hypotheses must not.

    Attributes:
        length_penalty: α, at least 0.
        coverage_penalty: β, at least 0.
        source_mask: `[B, S]` bool, `False` for padding.
    """

    length_penalty: float
    coverage_penalty: float
    source_mask: tf.Tensor

    def scores(self, log_probabilities, lengths, coverage):
        """The scores of hypotheses.

        Args:
            log_probabilities: `[B, M]` float32 `log P(Y|X)`.
            lengths: `|Y|`, int32, a scalar or `[B, 1]`.
            coverage: `[B, M, S]` float32 `Σ_j p_ij`. Values are clipped below at `TINY`: with a
                logarithm of `-inf`, all translations would have the same score.

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
        """Upper bound of the scores of all continuations of a hypothesis.

        `log P` can only fall, `lp` is at most its value at `max_length`, and `cp` is at most 0.

        Args:
            log_probability: `[B]` float32, at most 0, of live hypotheses.
            max_length: `[B]` int32.

        Returns:
            `[B]` float32 scores.
        """
        bound = tf.cast(log_probability, tf.float64) / self.divisor(max_length)
        return tf.cast(bound, tf.float32)

    def divisor(self, lengths):
        """`lp` of hypotheses of the given lengths, float64."""
        return ((5.0 + tf.cast(lengths, tf.float64)) / 6.0) ** self.length_penalty


def no_nan(x):
    """`x` with NaN replaced by `-inf`."""
    return tf.where(tf.math.is_nan(x), NEVER, x)
