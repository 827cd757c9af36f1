"""Send every token to its experts and bring the results back.

Axes: T tokens, E experts, K selected experts per token, A = T * K assignments, D model, C tokens of
each expert where they are equally many.

An assignment is one (token, selected expert) pair. They are sorted by expert once (`plan`); then
the rows of one expert lie side by side, and both directions and both gradients are gathers of rows:
no one-hot tensor, no scatter, no padding to a capacity. Nothing here depends on how the load is
spread over the experts. Only `Pairs`, where tokens have differing numbers of experts, need sums by
token.
"""

from typing import NamedTuple

import tensorflow as tf


class Plan(NamedTuple):
    """Where each assignment lies when the assignments are sorted by expert.

    Attributes:
        order: `[A]` int32. Assignment (`token * K + slot`) that lies at each sorted position.
        inverse: `[T, K]` int32. Sorted position of each assignment.
        counts: `[E]` int32. Rows of each expert. Dropped assignments are counted nowhere: they fill
            the positions from `sum(counts)` on.
    """

    order: tf.Tensor
    inverse: tf.Tensor
    counts: tf.Tensor


class Pairs(NamedTuple):
    """Pairs of a token and an expert, sorted by expert: a token can have any number of experts.

    Attributes:
        tokens: int32, the token of each pair: `[A]`, or `[E, C]` where every expert has C tokens.
        counts: `[E]` int32, pairs of each expert.
        num_tokens: `[]` int32, T.
    """

    tokens: tf.Tensor
    counts: tf.Tensor
    num_tokens: tf.Tensor

    def experts(self):
        """`[A]` int32, the expert of each pair."""
        return tf.repeat(tf.range(tf.size(self.counts)), self.counts)


def plan(experts, num_experts):
    """Sorts assignments by expert; within an expert, by token.

    Args:
        experts: `[T, K]` int32 expert ids in `[0, num_experts)`. The id `num_experts` drops the
            assignment.
        num_experts: E, a Python integer.

    Returns:
        A `Plan`.

    `tf.dynamic_partition` keeps the order within a part, so it sorts, in a tenth of the time that
    `tf.argsort` takes for 16384 assignments to 64 experts. An id outside `[0, num_experts]` is an
    error there.
    """
    flat = tf.reshape(experts, [-1])
    order = tf.concat(tf.dynamic_partition(tf.range(tf.size(flat)), flat, num_experts + 1), axis=0)
    inverse = tf.reshape(tf.math.invert_permutation(order), tf.shape(experts))
    counts = tf.math.unsorted_segment_sum(tf.ones_like(flat), flat, num_experts + 1)
    return Plan(order, inverse, counts[:num_experts])


def dispatch(x, plan):
    """Copies each token's row to the places of its assignments, sorted by expert.

    Args:
        x: `[T, D]` floating point.
        plan: a `Plan` for the T tokens, or `Pairs`.

    Returns:
        `[A, D]`, like `x`; `[E, C, D]` for `Pairs` of equally many tokens for each expert. Rows of
        dropped assignments (at the end) are copied too, and mean nothing.
    """
    if isinstance(plan, Pairs):
        return tf.gather(x, plan.tokens)
    tokens = plan.order // tf.maximum(tf.shape(plan.inverse)[1], 1)

    @tf.custom_gradient
    def permute(x):
        def gradient(dy):
            return tf.reduce_sum(tf.gather(dy, plan.inverse), axis=1)

        return tf.gather(x, tokens), gradient

    return permute(x)


def combine(y, gates, plan):
    """Weighted sum of each token's expert outputs:
    `out[t] = sum_k gates[t, k] * y[inverse[t, k]]`.

    Args:
        y: `[A, D]` floating point, sorted by expert, zero where the assignment is dropped; for
            `Pairs` as `dispatch` made them.
        gates: `[T, K]`, the type of `y`; for `Pairs` of each pair, shaped like their `tokens`.
        plan: the `Plan` or `Pairs` that sorted the rows.

    Returns:
        `[T, D]`, like `y`; 0 for a token without an expert.
    """
    if isinstance(plan, Pairs):
        return tf.math.unsorted_segment_sum(y * gates[..., None], plan.tokens, plan.num_tokens)
    num_selected = tf.maximum(tf.shape(plan.inverse)[1], 1)
    tokens = plan.order // num_selected

    @tf.custom_gradient
    def weighted_sum(y, gates):
        def gradient(dout):
            rows = tf.gather(dout, tokens)
            weights = tf.gather(tf.reshape(gates, [-1]), plan.order)
            dgates = tf.gather(tf.reduce_sum(rows * y, axis=1), plan.inverse)
            return rows * weights[:, None], dgates

        out = tf.reduce_sum(tf.gather(y, plan.inverse) * gates[:, :, None], axis=1)
        return out, gradient

    return weighted_sum(y, gates)
