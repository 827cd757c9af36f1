"""Selections: the experts that a token selects, and the tokens that an expert selects.

Axes: T tokens, E experts, K selected experts per token.
"""

import math

import tensorflow as tf


def top_k_gates(logits: tf.Tensor, k: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the k highest logits of each row, normalized by a softmax (eq 3 and 5: softmax after
    KeepTopK).

    Args:
        logits: `[T, E]` floating point.
        k: experts to keep, a Python integer in 1..E.

    Returns:
        `experts` `[T, K]` int32, by descending logit, the lower id first in a tie; and `gates`
        `[T, K]`, which sum to 1 over K.
    """
    values, experts = tf.math.top_k(logits, k)
    return experts, tf.nn.softmax(values)


SCORES = {"softmax": tf.nn.softmax, "sigmoid": tf.sigmoid}


def gate_values(scores: tf.Tensor, experts: tf.Tensor, renormalize: bool) -> tf.Tensor:
    """The scores of selected experts, as gate values.

    Args:
        scores: `[T, E]`, positive.
        experts: `[T, K]` int32.
        renormalize: whether to divide by the sum over a token's experts.

    Returns:
        `[T, K]`.
    """
    values = tf.gather(scores, experts, batch_dims=1)
    return normalized(values) if renormalize else values


def normalized(scores: tf.Tensor) -> tf.Tensor:
    """Divides `[T, N]` scores by their sum over N. 1e-20 is added to it, so that it is not 0."""
    return scores / (tf.reduce_sum(scores, axis=-1, keepdims=True) + 1e-20)


def normal_cdf(x: tf.Tensor) -> tf.Tensor:
    """Φ(x), the cumulative distribution of the standard normal, accurate in both tails."""
    return 0.5 * tf.math.erfc(-x / tf.sqrt(tf.constant(2.0, x.dtype)))


def probability_in_top_k(
    clean_logits: tf.Tensor,
    noisy_logits: tf.Tensor,
    noise_stddev: tf.Tensor,
    k: int,
    highest: tf.Tensor | None = None,
) -> tf.Tensor:
    """P(x, i): the probability that expert i is selected when only its own noise is redrawn
    (eq 8-9).

    `P(x, i) = Φ((clean_i - kth_excluding(noisy, k, i)) / stddev_i)`, where `kth_excluding` is the
    k-th highest of the *other* experts' noisy logits. For an expert in the top k this is the
    (k+1)-th highest of all logits; for any other expert it is the k-th highest. Using one of the
    two for all experts would bias the estimate.

    Args:
        clean_logits: `[T, E]`, `x·W_g`.
        noisy_logits: `[T, E]`, the logits that the experts were selected by.
        noise_stddev: `[T, E]`, not negative. A learned value can shrink to 0: values below 1e-6
            count as 1e-6, where P is 0 or 1 except in a tie, and every gradient stays finite.
        k: selected experts per token, 1 <= k < E.
        highest: `[T, k + 1]`, the highest noisy logits, descending; `None` to compute them.

    Returns:
        `[T, E]` in 0..1, differentiable in all three tensors.
    """
    if highest is None:
        highest = tf.math.top_k(noisy_logits, k + 1).values
    kth, next_highest = highest[:, k - 1 : k], highest[:, k : k + 1]
    is_selected = noisy_logits > next_highest
    return probability_above(clean_logits, noise_stddev, kth, next_highest, is_selected)


@tf.custom_gradient
def probability_above(clean, stddev, kth, next_highest, is_selected):
    """`Φ((clean - threshold) / stddev)`. The gradient by hand is half of the operations.

    Args:
        clean: `[T, E]`.
        stddev: `[T, E]`; values below 1e-6 count as 1e-6.
        kth: `[T, 1]`, the threshold of experts that are not selected.
        next_highest: `[T, 1]`, the threshold of those that are.
        is_selected: `[T, E]` bool.
    """
    floor = tf.constant(1e-6, stddev.dtype)
    scale = tf.maximum(stddev, floor)
    z = (clean - tf.where(is_selected, next_highest, kth)) / scale

    def gradient(dp):
        density = tf.exp(-0.5 * tf.square(z)) / math.sqrt(2 * math.pi)
        dclean = dp * density / scale
        zero = tf.zeros([], dclean.dtype)
        dstddev = tf.where(stddev >= floor, -dclean * z, zero)
        dnext = -tf.reduce_sum(tf.where(is_selected, dclean, zero), axis=1, keepdims=True)
        dkth = -tf.reduce_sum(dclean, axis=1, keepdims=True) - dnext
        return dclean, dstddev, dkth, dnext, None

    return normal_cdf(z), gradient


def top_rows_of_experts(
    probability: tf.Tensor, num_rows: int | tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Selects the rows with the highest probabilities for each expert (eq 18).

    Args:
        probability: `[G, N, E]` floating point; each of the G groups is a separate batch.
        num_rows: C, the rows that each expert selects, at most N.

    Returns:
        The selected probabilities `[G, E, C]`; and the rows `[G, E, C]` int32, indices in 0..N-1,
        by descending probability, the lower index first in a tie.
    """
    by_expert = tf.transpose(probability, [0, 2, 1])
    # The gradient of the values of `top_k` fails if there are no rows, so they are gathered.
    rows = tf.math.top_k(tf.stop_gradient(by_expert), num_rows).indices
    return tf.gather(by_expert, rows, batch_dims=2), rows
