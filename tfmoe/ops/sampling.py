"""The log-uniform candidate sampler for a sampled softmax.

Axes: V vocabulary, S candidates.
"""

import math

import tensorflow as tf


def log_uniform_probability(ids: tf.Tensor, vocabulary_size: int) -> tf.Tensor:
    """`P(id) = log((id + 2) / (id + 1)) / log(V + 1)`: Zipf's law for ids sorted by descending
    frequency.

    Args:
        ids: `[...]` integer, in `[0, V)`.
        vocabulary_size: V.

    Returns:
        `[...]` float32.
    """
    ids = tf.cast(ids, tf.float32)
    return tf.math.log1p(1 / (ids + 1)) / math.log(vocabulary_size + 1)


def log_uniform_candidates(uniform: tf.Tensor, num_candidates: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws words from the log-uniform distribution until S are distinct.

    The draws are the events of a Poisson process of rate 1. Each word then has its own Poisson
    process of rate `P(id)`, whose first event is at time `e / P(id)` with e exponential. The
    candidates are the S words with the earliest first events. This needs V random numbers and no
    loop over a random number of draws.

    Args:
        uniform: `[..., V]` floating point in `[0, 1)`, the random numbers. The 23 random bits of a
            float32 round probabilities to 1e-7; the smallest probability of the 8192 candidates
            of 793,471 words is 0.0015.
        num_candidates: S, less than V.

    Returns:
        `[..., S]` int32, distinct ids in the order of their first events; and `[...]`, the time of
        the first event of the next word, word S + 1.
    """
    vocabulary_size = uniform.shape[-1]
    rates = log_uniform_probability(tf.range(vocabulary_size), vocabulary_size)
    negative_times = tf.math.log(uniform) / tf.cast(rates, uniform.dtype)
    highest, ids = tf.math.top_k(negative_times, num_candidates + 1)
    return ids[..., :-1], -highest[..., -1]


def log_inclusion_probability(ids: tf.Tensor, vocabulary_size: int, time: tf.Tensor) -> tf.Tensor:
    """`log(1 - exp(-P(id)·time))`: the log-probability that a word's first event is before `time`.

    With the time that `log_uniform_candidates` returns, this is the probability q that a candidate
    was selected, given the events of all other words: without the candidate, word S + 1 would have
    been selected last. So `Σ x(id) / q(id)` over the candidates is an unbiased estimate of
    `Σ x(id)` over the vocabulary, for any x (Cohen & Kaplan 2007, "rank conditioning").

    Samplers that draw until S words are distinct usually use `1 - (1 - P(id))^n` with n draws. That
    estimate is biased, because the draws end with word S: sums are too high, by a fraction of the
    order of 1/S. The unconditional probability would be unbiased too, but it is an integral over
    all orders of events.

    Args:
        ids: `[...]` integer.
        vocabulary_size: V.
        time: floating point scalar.

    Returns:
        `[...]` with the dtype of `time`.
    """
    p = tf.cast(log_uniform_probability(ids, vocabulary_size), time.dtype)
    return tf.math.log(-tf.math.expm1(-p * time))
