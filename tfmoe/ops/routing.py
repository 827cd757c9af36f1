"""Which experts a token selects, and which tokens an expert takes.

Axes: T tokens, E experts, K selected experts per token.
"""

import tensorflow as tf


def top_k_gates(logits, k):
    """The k highest logits of each row and the softmax over them (eq 3 and 5: softmax after
    KeepTopK).

    Args:
        logits: `[T, E]` floating point.
        k: experts to keep, a Python integer in 1..E.

    Returns:
        `experts` `[T, K]` int32, by falling logit, the lower id first among equals, and `gates`
        `[T, K]`, which sum to 1 over K.
    """
    values, experts = tf.math.top_k(logits, k)
    return experts, tf.nn.softmax(values)


def normal_cdf(x):
    """Φ(x), the cumulative distribution of the standard normal, exact in both tails."""
    return 0.5 * tf.math.erfc(-x / tf.sqrt(tf.constant(2.0, x.dtype)))


def probability_in_top_k(clean_logits, noisy_logits, noise_stddev, k):
    """P(x, i): the probability that expert i is selected if its own noise is drawn anew (eq 8-9).

    `P(x, i) = Φ((clean_i - kth_excluding(noisy, k, i)) / stddev_i)`, where `kth_excluding` is the
    k-th highest of the *other* experts' noisy logits. For an expert that is among the top k this is
    the (k+1)-th highest of all, for any other expert the k-th highest: with only one of the two the
    estimate is biased.

    Args:
        clean_logits: `[T, E]`, `x·W_g`.
        noisy_logits: `[T, E]`, what the selection was made with.
        noise_stddev: `[T, E]`, not negative. A learned one can shrink to 0: below 1e-6 it counts as
            1e-6, where P is 0 or 1 but for ties and every gradient stays finite.
        k: selected experts per token, 1 <= k < E.

    Returns:
        `[T, E]` in 0..1, differentiable in all three tensors.
    """
    highest = tf.math.top_k(noisy_logits, k + 1).values
    kth, next_one = highest[:, k - 1 : k], highest[:, k : k + 1]
    others_kth = tf.where(noisy_logits > next_one, next_one, kth)
    return normal_cdf((clean_logits - others_kth) / tf.maximum(noise_stddev, 1e-6))


def top_rows_of_experts(probability, num_taken):
    """The best rows of each expert (eq 18).

    Args:
        probability: `[G, N, E]` floating point; each group is a batch of its own.
        num_taken: C, rows that each expert takes, at most N.

    Returns:
        Their probabilities `[G, E, C]`, and the rows `[G, E, C]` int32, numbers in 0..N-1, by
        falling probability, the lower number first among equals.
    """
    by_expert = tf.transpose(probability, [0, 2, 1])
    # Not the values of `top_k`, whose gradient fails where there are no rows.
    rows = tf.math.top_k(tf.stop_gradient(by_expert), num_taken).indices
    return tf.gather(by_expert, rows, batch_dims=2), rows
