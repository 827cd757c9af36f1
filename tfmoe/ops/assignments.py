"""Assignments of tokens to experts: a gate's decision, and the dispatch and combine that follow it.

Axes: T tokens, E experts, K experts per token, C rows per expert, A assignments, D model, G groups,
R replicas.

An assignment is a pair of a token and an expert, with a weight. Assignments are sorted by expert
once, so that the rows of one expert are contiguous. The cost does not depend on how the load is
distributed over the experts. If every token has K experts, dispatch, combine and their gradients
are gathers of rows: no one-hot tensor, no scatter, no padding to a capacity. If the number of
experts varies by token, sums by token are segment sums.

*Static* assignments have no shape that depends on values, as XLA and other runtimes need: A only
depends on T. A pair that is not selected is a dropped assignment. Their operations differ where
those of other assignments have no counterpart in ONNX, LiteRT or TensorFlow.js.
"""

from typing import NamedTuple

import tensorflow as tf

from tfmoe.ops.padded_rows import expert_of_rows
from tfmoe.ops.segments import segment_ids
from tfmoe.ops.sorting import inverse_permutation, kept_first, sort_by_expert, sum_by_id


class Assignments(NamedTuple):
    """Assignments sorted by expert; within an expert, by token if every token has K experts.

    Attributes:
        tokens: `[A]` int32, the token of each assignment.
        weights: `[A]` float, the weight `G(x)_i` of each assignment.
        counts: `[E]` int32, the number of assignments of each expert. The assignments from
            `sum(counts)` on are dropped: no expert computes them.
        num_tokens: `[]` int32, T.
        slots: `[T, K]` int32, the indices of each token's assignments in `tokens`; `None` if the
            number of experts varies by token.
        rows_per_expert: `[]` int32, C if every expert takes C rows of the global batch; else
            `None`.
        replica_counts: `[R, E]` int32, the `counts` on each of R replicas, if they are known
            without an exchange; else `None`.
        max_rows: `[]` int32, for static assignments: the most rows that an expert can have, known
            from shapes; `None` for T.
    """

    tokens: tf.Tensor
    weights: tf.Tensor
    counts: tf.Tensor
    num_tokens: tf.Tensor
    slots: tf.Tensor | None = None
    rows_per_expert: tf.Tensor | None = None
    replica_counts: tf.Tensor | None = None
    max_rows: tf.Tensor | None = None

    @property
    def is_static(self) -> bool:
        """Whether the assignments are `StaticAssignments`."""
        return isinstance(self, StaticAssignments)

    def num_kept(self) -> tf.Tensor:
        """`[]` int32, the number of assignments that are not dropped."""
        return tf.reduce_sum(self.counts)

    def experts(self) -> tf.Tensor:
        """`[sum(counts)]` int32, the expert of each assignment that is not dropped."""
        return segment_ids(self.counts)

    def all_experts(self) -> tf.Tensor:
        """`[A]` int32, the expert of each assignment; E for those that are dropped."""
        if self.is_static:
            return expert_of_rows(self.counts, tf.size(self.tokens))
        num_dropped = tf.size(self.tokens) - self.num_kept()
        return segment_ids(tf.concat([self.counts, num_dropped[None]], axis=0))

    def is_kept(self) -> tf.Tensor:
        """`[A]` bool, whether each assignment is kept."""
        return tf.range(tf.size(self.tokens)) < self.num_kept()

    def sum_by_expert(self, values: tf.Tensor) -> tf.Tensor:
        """Sums `[A]` values to `[E]`; dropped assignments do not count."""
        num_experts = self.counts.shape[0]
        return sum_by_id(values, self.all_experts(), num_experts, self.is_static)

    def sum_by_token(self, rows: tf.Tensor) -> tf.Tensor:
        """Sums `[A, ...]` rows to `[T, ...]`."""
        if self.slots is not None:
            return tf.reduce_sum(tf.gather(rows, self.slots), axis=1)
        return tf.math.unsorted_segment_sum(rows, self.tokens, self.num_tokens)

    def by_token(self) -> tuple:
        """Returns the assignments that are not dropped, sorted by token.

        Returns:
            Three tensors `[sum(counts)]`: tokens (int32), experts (int32), weights.
        """
        kept = self.num_kept()
        tokens = self.tokens[:kept]
        order = tf.argsort(tokens, stable=True)
        by_expert = (tokens, self.experts(), self.weights[:kept])
        return tuple(tf.gather(values, order) for values in by_expert)

    def dispatch(self, x: tf.Tensor) -> tf.Tensor:
        """Copies each token's row to its assignments.

        Args:
            x: `[T, D]` floating point.

        Returns:
            `[A, D]`, the dtype of `x`, sorted by expert.
        """

        @tf.custom_gradient
        def gather(x):
            def gradient(dy):
                # XLA must know T, which it does not in the gradient of a loop, but for shapes.
                return self._replace(num_tokens=tf.shape(x)[0]).sum_by_token(dy)

            return tf.gather(x, self.tokens), gradient

        return gather(x)

    def combine(self, y: tf.Tensor) -> tf.Tensor:
        """Computes the weighted sum of each token's rows.

        Args:
            y: `[A, D]` floating point, sorted by expert; 0 in the rows of dropped assignments.

        Returns:
            `[T, D]`, the dtype of `y`; 0 for a token without an expert.
        """

        @tf.custom_gradient
        def weighted_sum(y, weights):
            def gradient(dout):
                rows = tf.gather(dout, self.tokens)
                return rows * weights[:, None], tf.reduce_sum(rows * y, axis=1)

            return self.sum_by_token(y * weights[:, None]), gradient

        return weighted_sum(y, tf.cast(self.weights, y.dtype))


class StaticAssignments(Assignments):
    """Assignments none of whose shapes depends on values."""

    __slots__ = ()


def assign_tokens(
    experts: tf.Tensor, weights: tf.Tensor, num_experts: int, is_static: bool = False
) -> Assignments:
    """Returns the assignments of tokens that select K experts each.

    Args:
        experts: `[T, K]` int32 expert ids, distinct within a row. The id `num_experts` drops the
            assignment.
        weights: `[T, K]` float.
        num_experts: E, a Python integer.
        is_static: whether to return static assignments.

    Raises:
        tf.errors.InvalidArgumentError: an id is outside `[0, num_experts]`; not if static.
    """
    k = tf.maximum(tf.shape(experts)[1], 1)
    flat = tf.reshape(experts, [-1])
    order, counts = sort_by_expert(flat, num_experts, is_static)
    slots = tf.reshape(inverse_permutation(order, is_static), tf.shape(experts))
    return (StaticAssignments if is_static else Assignments)(
        tokens=order // k,
        weights=permute(tf.reshape(weights, [-1]), order, tf.reshape(slots, [-1])),
        counts=tf.ensure_shape(counts, [num_experts]),
        num_tokens=tf.shape(experts)[0],
        slots=slots,
    )


def assign_mask(
    mask: tf.Tensor,
    probability: tf.Tensor,
    first_expert: int | tf.Tensor = 0,
    num_experts: int | None = None,
    is_static: bool = False,
) -> Assignments:
    """Returns the assignments that a mask selects.

    Args:
        mask: `[T, N]` bool, for the N experts that a token can select.
        probability: `[T, N]` float, the weights where the mask is true.
        first_expert: int32 `[T]` or scalar: the id of the first of these N experts.
        num_experts: E, the total number of experts; `None` for N.
        is_static: whether to return static assignments: T·N of them, most of them dropped.
    """
    num_experts = mask.shape[1] if num_experts is None else num_experts
    if is_static:
        ids = tf.reshape(first_expert, [-1, 1]) + tf.range(mask.shape[1])[None]
        experts = tf.where(mask, ids, num_experts)
        weights = tf.where(mask, probability, tf.zeros([], probability.dtype))
        return assign_tokens(experts, weights, num_experts, is_static)
    indices = tf.where(mask)
    first = tf.broadcast_to(first_expert, [tf.shape(mask)[0]])
    rows = tf.cast(indices[:, 0], tf.int32)
    experts = tf.cast(indices[:, 1], tf.int32) + tf.gather(first, rows)
    weights = tf.gather_nd(probability, indices)
    by_expert = assign_tokens(experts[:, None], weights[:, None], num_experts)
    return Assignments(
        tokens=tf.gather(rows, by_expert.tokens),
        weights=by_expert.weights,
        counts=by_expert.counts,
        num_tokens=tf.shape(mask)[0],
    )


def renormalize_weights(assignments: Assignments) -> Assignments:
    """Divides each weight by the sum of the weights of its token (eq 16)."""
    total = assignments.sum_by_token(assignments.weights)
    weights = tf.math.divide_no_nan(assignments.weights, tf.gather(total, assignments.tokens))
    return assignments._replace(weights=weights)


def sort_by_token(assignments: Assignments) -> Assignments:
    """Sorts the assignments of each expert by token. They stay sorted by expert."""
    if assignments.slots is not None:  # already sorted
        return assignments
    by_token = tf.argsort(assignments.tokens, stable=True)
    experts = tf.gather(assignments.all_experts(), by_token)  # dropped assignments are last
    order = tf.gather(by_token, tf.argsort(experts, stable=True))
    return assignments._replace(
        tokens=tf.gather(assignments.tokens, order),
        weights=tf.gather(assignments.weights, order),
    )


def drop(
    assignments: Assignments, kept: tf.Tensor, max_rows: tf.Tensor | None = None
) -> Assignments:
    """Drops assignments by moving them behind all others.

    Args:
        assignments: the assignments.
        kept: `[A]` bool, `False` for the assignments to drop; must be `False` for assignments that
            are already dropped.
        max_rows: for static assignments, the most rows that an expert keeps, known from shapes;
            `None` if the number is not known.
    """
    order = kept_first(kept, assignments.is_static)
    slots = assignments.slots
    if slots is not None:
        slots = tf.gather(inverse_permutation(order, assignments.is_static), slots)
    counts = assignments.sum_by_expert(tf.cast(kept, tf.int32))
    known = [rows for rows in (assignments.max_rows, max_rows) if rows is not None]
    return assignments._replace(
        tokens=tf.gather(assignments.tokens, order),
        weights=tf.gather(assignments.weights, order),
        counts=tf.ensure_shape(counts, assignments.counts.shape),
        slots=slots,
        rows_per_expert=None,
        replica_counts=None,
        max_rows=tf.reduce_min(tf.stack(known)) if known else None,
    )


def compose(outer: Assignments, inner: Assignments) -> Assignments:
    """Composes the assignments of the two levels of a hierarchical mixture.

    Args:
        outer: assigns T tokens to groups.
        inner: assigns the rows that `outer` keeps, in the order of `outer`, to the experts of all
            groups.

    Returns:
        The assignments of T tokens to experts. Each weight is the product of the weights at both
        levels (eq 12).
    """
    weights = tf.gather(outer.weights, inner.tokens) * inner.weights
    return type(inner)(
        tokens=tf.gather(outer.tokens, inner.tokens),
        weights=weights,
        counts=inner.counts,
        num_tokens=outer.num_tokens,
        max_rows=inner.max_rows,
        replica_counts=inner.replica_counts,
    )


def permute(x: tf.Tensor, order: tf.Tensor, inverse: tf.Tensor) -> tf.Tensor:
    """Computes `x[order]` along the first axis; the gradient is a gather too.

    Args:
        x: `[A, ...]`.
        order: `[A]` int32, a permutation.
        inverse: `[A]` int32, its inverse.
    """

    @tf.custom_gradient
    def gather(x):
        return tf.gather(x, order), lambda dy: tf.gather(dy, inverse)

    return gather(x)
