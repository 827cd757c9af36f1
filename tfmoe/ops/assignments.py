"""Which tokens go to which experts: what a gate decides, and all that the rest of a mixture needs.

Axes: T tokens, E experts, K experts per token, C rows per expert, A assignments, D model, G groups.

An assignment is a pair of a token and an expert, with a weight. Assignments are sorted by expert
once; then the rows of one expert lie side by side. Nothing here depends on how the load is spread
over the experts. Where every token has K experts, both directions and both gradients are gathers of
rows: no one-hot tensor, no scatter, no padding to a capacity. Where tokens have differing numbers
of experts, sums by token are segment sums.
"""

from typing import NamedTuple

import tensorflow as tf

from tfmoe.ops.segments import segment_ids


class Assignments(NamedTuple):
    """Assignments sorted by expert; within an expert, by token where every token has K experts.

    Attributes:
        tokens: `[A]` int32, the token of each assignment.
        weights: `[A]` float, its weight `G(x)_i`.
        counts: `[E]` int32, the assignments of each expert. The assignments from `sum(counts)` on
            are dropped: no expert computes them.
        num_tokens: `[]` int32, T.
        slots: `[T, K]` int32, the index of each token's assignments in `tokens`; `None` where
            tokens have differing numbers of experts.
        rows_per_expert: `[]` int32, C where every expert takes C rows of the global batch; else
            `None`.
    """

    tokens: tf.Tensor
    weights: tf.Tensor
    counts: tf.Tensor
    num_tokens: tf.Tensor
    slots: tf.Tensor | None = None
    rows_per_expert: tf.Tensor | None = None

    def num_kept(self):
        """`[]` int32, the number of assignments that are not dropped."""
        return tf.reduce_sum(self.counts)

    def experts(self):
        """`[sum(counts)]` int32, the expert of each assignment that is not dropped."""
        return segment_ids(self.counts)

    def sum_by_expert(self, values):
        """`[A]` values to `[E]` sums; dropped assignments do not count."""
        kept = values[: self.num_kept()]
        return tf.math.unsorted_segment_sum(kept, self.experts(), tf.size(self.counts))

    def sum_by_token(self, rows):
        """`[A, ...]` rows to `[T, ...]` sums."""
        if self.slots is not None:
            return tf.reduce_sum(tf.gather(rows, self.slots), axis=1)
        return tf.math.unsorted_segment_sum(rows, self.tokens, self.num_tokens)

    def by_token(self):
        """The assignments that are not dropped, sorted by token.

        Returns:
            Three tensors `[sum(counts)]`: tokens (int32), experts (int32), weights.
        """
        kept = self.num_kept()
        tokens = self.tokens[:kept]
        order = tf.argsort(tokens, stable=True)
        every = (tokens, self.experts(), self.weights[:kept])
        return tuple(tf.gather(each, order) for each in every)

    def dispatch(self, x):
        """Copies the row of each token to its assignments.

        Args:
            x: `[T, D]` floating point.

        Returns:
            `[A, D]`, like `x`, sorted by expert.
        """

        @tf.custom_gradient
        def gather(x):
            return tf.gather(x, self.tokens), self.sum_by_token

        return gather(x)

    def combine(self, y):
        """The weighted sum of each token's rows: the way back from `dispatch`.

        Args:
            y: `[A, D]` floating point, sorted by expert; 0 in the rows of dropped assignments.

        Returns:
            `[T, D]`, like `y`; 0 for a token without an expert.
        """

        @tf.custom_gradient
        def weighted_sum(y, weights):
            def gradient(dout):
                rows = tf.gather(dout, self.tokens)
                return rows * weights[:, None], tf.reduce_sum(rows * y, axis=1)

            return self.sum_by_token(y * weights[:, None]), gradient

        return weighted_sum(y, tf.cast(self.weights, y.dtype))


def assign_tokens(experts, weights, num_experts):
    """The assignments where every token selects K experts.

    `tf.dynamic_partition` keeps the order within a part, so it sorts, in a tenth of the time that
    `tf.argsort` takes for 16384 assignments to 64 experts. An id outside `[0, num_experts]` is an
    error there.

    Args:
        experts: `[T, K]` int32 expert ids, distinct within a row. The id `num_experts` drops the
            assignment.
        weights: `[T, K]` float.
        num_experts: E, a Python integer.

    Returns:
        `Assignments`.
    """
    k = tf.maximum(tf.shape(experts)[1], 1)
    flat = tf.reshape(experts, [-1])
    order = tf.concat(tf.dynamic_partition(tf.range(tf.size(flat)), flat, num_experts + 1), axis=0)
    slots = tf.reshape(tf.math.invert_permutation(order), tf.shape(experts))
    counts = tf.math.unsorted_segment_sum(tf.ones_like(flat), flat, num_experts + 1)
    return Assignments(
        tokens=order // k,
        weights=permute(tf.reshape(weights, [-1]), order, tf.reshape(slots, [-1])),
        counts=tf.ensure_shape(counts[:num_experts], [num_experts]),
        num_tokens=tf.shape(experts)[0],
        slots=slots,
    )


def assign_mask(mask, probability, first_expert=0, num_experts=None):
    """The assignments that a mask selects.

    Args:
        mask: `[T, N]` bool, for the N experts that a token can choose from.
        probability: `[T, N]` float, from which the weights are taken.
        first_expert: int32 `[T]` or scalar: the number of the first of these experts.
        num_experts: E, of all experts; `None` for N.

    Returns:
        `Assignments`.
    """
    num_experts = mask.shape[1] if num_experts is None else num_experts
    places = tf.where(mask)
    first = tf.broadcast_to(first_expert, [tf.shape(mask)[0]])
    rows = tf.cast(places[:, 0], tf.int32)
    experts = tf.cast(places[:, 1], tf.int32) + tf.gather(first, rows)
    weights = tf.gather_nd(probability, places)
    by_expert = assign_tokens(experts[:, None], weights[:, None], num_experts)
    return Assignments(
        tokens=tf.gather(rows, by_expert.tokens),
        weights=by_expert.weights,
        counts=by_expert.counts,
        num_tokens=tf.shape(mask)[0],
    )


def renormalised(assignments):
    """Divides the weight of each assignment by the sum of its token's weights (eq 16)."""
    total = assignments.sum_by_token(assignments.weights)
    weights = tf.math.divide_no_nan(assignments.weights, tf.gather(total, assignments.tokens))
    return assignments._replace(weights=weights)


def in_order(assignments):
    """The assignments by token within an expert, also where tokens have differing numbers of
    experts.
    """
    if assignments.slots is not None:  # they are
        return assignments
    num_kept, size = assignments.num_kept(), tf.size(assignments.tokens)
    by_token = tf.argsort(assignments.tokens[:num_kept], stable=True)
    by_expert = tf.argsort(tf.gather(assignments.experts(), by_token), stable=True)
    order = tf.concat([tf.gather(by_token, by_expert), tf.range(num_kept, size)], axis=0)
    return assignments._replace(
        tokens=tf.gather(assignments.tokens, order),
        weights=tf.gather(assignments.weights, order),
    )


def drop(assignments, kept):
    """Drops assignments: they lie behind all others afterwards.

    Args:
        assignments: `Assignments`.
        kept: `[A]` bool, `False` where an assignment is dropped; it has to be `False` for those
            that are dropped already.

    Returns:
        `Assignments`.
    """
    index = tf.range(tf.size(kept))
    order = tf.concat(tf.dynamic_partition(index, tf.cast(~kept, tf.int32), 2), axis=0)
    slots = assignments.slots
    if slots is not None:
        slots = tf.gather(tf.math.invert_permutation(order), slots)
    num_kept = assignments.num_kept()
    experts = assignments.experts()
    counts = tf.math.unsorted_segment_sum(
        tf.cast(kept[:num_kept], tf.int32), experts, tf.size(assignments.counts)
    )
    return assignments._replace(
        tokens=tf.gather(assignments.tokens, order),
        weights=tf.gather(assignments.weights, order),
        counts=tf.ensure_shape(counts, assignments.counts.shape),
        slots=slots,
        rows_per_expert=None,
    )


def compose(outer, inner):
    """The assignments of a hierarchical mixture, tokens to experts, from those of its two levels.

    Args:
        outer: `Assignments` of T tokens to groups.
        inner: `Assignments` of the rows that `outer` does not drop, in its order, to the experts of
            all groups.

    Returns:
        `Assignments` of T tokens to experts, with the product of both weights (eq 12).
    """
    weights = tf.gather(outer.weights, inner.tokens) * inner.weights
    return Assignments(
        tokens=tf.gather(outer.tokens, inner.tokens),
        weights=weights,
        counts=inner.counts,
        num_tokens=outer.num_tokens,
    )


def permute(x, order, inverse):
    """`x[order]` along the first axis, with a gather for its gradient.

    Args:
        x: `[A, ...]`.
        order: `[A]` int32, a permutation.
        inverse: `[A]` int32, its inverse.
    """

    @tf.custom_gradient
    def gather(x):
        return tf.gather(x, order), lambda dy: tf.gather(dy, inverse)

    return gather(x)
