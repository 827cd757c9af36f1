"""The log-uniform candidate sampler of a sampled softmax.

Axes: V vocabulary, S candidates.
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


def log_uniform_candidates(uniform, num_candidates):
    """Draws words from the log-uniform distribution until S are distinct.

    The draws are events of a Poisson process of rate 1, so that each word has a process of its own,
    of rate `P(id)`: its first event is at the time `e / P(id)`, with e exponential. The candidates
    are the S words whose first events come first. This takes V random numbers and no loop, in which
    the number of draws would be random.

    Args:
        uniform: `[..., V]` floating point in `[0, 1)`, the randomness. The 23 random bits of a
            float32 round probabilities to 1e-7; the least that occurs for the 8192 candidates of
            793,471 words is 0.0015.
        num_candidates: S, less than V.

    Returns:
        `[..., S]` int32, distinct ids in the order of their first events; and `[...]`, the time at
        which the next word, number S + 1, has its first event.
    """
    vocabulary_size = uniform.shape[-1]
    rates = log_uniform_probability(tf.range(vocabulary_size), vocabulary_size)
    before = tf.math.log(uniform) / tf.cast(rates, uniform.dtype)  # how long before time 0
    highest, ids = tf.math.top_k(before, num_candidates + 1)
    return ids[..., :-1], -highest[..., -1]


def log_inclusion_probability(ids, vocabulary_size, time):
    """`log(1 - exp(-P(id)·time))`: how likely the first event of a word is before a time.

    With the time of `log_uniform_candidates` it is, for a candidate, the probability to be one,
    given the events of all other words: without the candidate, word S + 1 would be the last of S.
    So `Σ x(id) / q(id)` over the candidates is an unbiased estimate of `Σ x(id)` over the
    vocabulary, for any x, q being this probability (Cohen & Kaplan 2007, "rank conditioning").

    The usual estimate for a sampler that draws until S words are distinct, `1 - (1 - P(id))^n` of n
    draws, ends with word S: sums are too high, by a share of the order of 1/S. The probability
    without the condition would be unbiased too, but is an integral over all orders of events.

    Args:
        ids: `[...]` integer.
        vocabulary_size: V.
        time: floating point scalar.

    Returns:
        `[...]` of the type of `time`.
    """
    p = tf.cast(log_uniform_probability(ids, vocabulary_size), time.dtype)
    return tf.math.log(-tf.math.expm1(-p * time))
