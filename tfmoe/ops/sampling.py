"""The log-uniform candidate sampler of a sampled softmax.

Axes: V vocabulary, S draws, U unique candidates.
"""

import math

import tensorflow as tf


def log_uniform_probability(ids, vocabulary_size):
    """`P(id) = log((id + 2) / (id + 1)) / log(V + 1)`: Zipf's law for ids that are sorted by
    falling frequency.

    Args:
        ids: `[...]` integer, in `[0, V)`.
        vocabulary_size: V.

    Returns:
        `[...]` float32.
    """
    ids = tf.cast(ids, tf.float32)
    return tf.math.log1p(1 / (ids + 1)) / math.log(vocabulary_size + 1)


def log_uniform_candidates(uniform, vocabulary_size):
    """Distinct candidates from S independent draws.

    Args:
        uniform: `[S]` float32 in `[0, 1)`, the randomness.
        vocabulary_size: V.

    Returns:
        `[U]` int32 distinct ids, U <= S.
    """
    ids = tf.exp(tf.cast(uniform, tf.float64) * math.log(vocabulary_size + 1)) - 1
    ids = tf.clip_by_value(tf.cast(ids, tf.int32), 0, vocabulary_size - 1)
    return tf.unique(ids).y


def log_inclusion_probability(ids, vocabulary_size, num_draws):
    """`log(1 - (1 - P(id))^S)`: how likely an id is among the candidates of S draws.

    Args:
        ids: `[...]` integer.
        vocabulary_size: V.
        num_draws: S.

    Returns:
        `[...]` float32.
    """
    p = log_uniform_probability(ids, vocabulary_size)
    return tf.math.log(-tf.math.expm1(num_draws * tf.math.log1p(-p)))
