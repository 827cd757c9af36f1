"""The first rows of every expert, arranged for batched products.

Axes: A rows (assignments), E experts, C rows of each expert.
"""

from typing import NamedTuple

import tensorflow as tf

from tfmoe.ops.segments import segment_ids

# Estimated times of an expert in a training step without its rows, in units of the time of a row:
# in a batched product,
BATCHED = 32
# in the loop, to which LOOP_ELEMENTS / (elements of the expert's weights) are added: the smaller an
# expert, the more rows fit in the time that starts its operations,
LOOPED = 55
LOOP_ELEMENTS = 2**20
# and for adding a second part to its gradient. An expert that the loop leaves out costs
ADDED = 10
# for zeros in its gradient.
LEFT_OUT = 8
# C is a multiple of this, so that few shapes occur: oneDNN compiles a product for each.
MULTIPLE = 8


def batched_size(counts: tf.Tensor, elements: int) -> tf.Tensor:
    """Selects C, the rows of each expert that are computed together: the size with the lowest
    estimated time. It is 0 if the loop alone takes less.

    A small C leaves rows to the loop, a large one pads experts that have fewer rows.

    Args:
        counts: `[E]` int32, the rows of each expert.
        elements: of the weights of an expert.

    Returns:
        `[]` int32.
    """
    num_experts, visit = counts.shape[0], LOOPED + LOOP_ELEMENTS // max(elements, 1)
    num_visited = tf.cast(tf.math.count_nonzero(visits_of_loop(counts)), tf.int64)
    loads = tf.cast(tf.sort(counts), tf.int64)
    sizes = -(-loads // MULTIPLE) * MULTIPLE
    # The experts without remaining rows.
    smaller = tf.searchsorted(loads, sizes, side="right", out_type=tf.int64)
    larger = num_experts - smaller
    sums = tf.pad(tf.cumsum(loads), [[1, 0]])
    rest = sums[-1] - tf.gather(sums, smaller) - larger * sizes
    times = num_experts * (BATCHED + sizes) + larger * (visit + ADDED) + rest
    best = tf.argmin(times)
    looped = num_visited * visit + (num_experts - num_visited) * LEFT_OUT + sums[-1]
    is_faster = times[best] < looped
    return tf.where(is_faster, tf.cast(sizes[best], tf.int32), 0)


def visits_of_loop(counts: tf.Tensor) -> tf.Tensor:
    """Which experts a loop visits, `[E]` bool: all; or if most of them have no rows, as with few
    tokens, those that have rows, so that the time depends on the rows.

    Args:
        counts: `[E]` int32, the rows of each expert.
    """
    has_rows = counts > 0
    return has_rows | (2 * tf.math.count_nonzero(has_rows) > counts.shape[0])


class BatchedRows(NamedTuple):
    """The first C rows of every expert, and the remaining rows.

    Attributes:
        counts: `[E]` int32, the rows of each expert.
        size: C, `[]` int32.
        ends: `[E]` int32, the row after the last one of each expert.
        rest: `[E]` int32, the remaining rows of each expert.
        num_rows: `[]` int32, `sum(counts)`.
        within: `[sum(counts)]` int32, the index of each row among those of its expert.
        cells: `[sum(counts)]` int32, the cell of each row among all E·C; any valid index for the
            remaining rows.
    """

    counts: tf.Tensor
    size: tf.Tensor
    ends: tf.Tensor
    rest: tf.Tensor
    num_rows: tf.Tensor
    within: tf.Tensor
    cells: tf.Tensor

    @classmethod
    def of(cls, counts, size):
        """The rows of experts with these counts."""
        ends, expert = tf.cumsum(counts), segment_ids(counts)
        num_rows = ends[-1]
        within = tf.range(num_rows) - tf.gather(ends - counts, expert)
        cells = expert * size + tf.minimum(within, tf.maximum(size - 1, 0))
        rest = tf.maximum(counts - size, 0)
        return cls(counts, size, ends, rest, num_rows, within, cells)

    def pad(self, rows):
        """Arranges `[A, D]` rows as `[E, C, D]`, with 0 in cells without a row."""
        within = tf.range(self.size)
        is_row = within < self.counts[:, None]
        # The row behind the last one is 0.
        index = tf.where(is_row, (self.ends - self.counts)[:, None] + within, self.num_rows)
        padded = tf.gather(tf.pad(rows[: self.num_rows], [[0, 1], [0, 0]]), index)
        return tf.ensure_shape(padded, [self.counts.shape[0], None, rows.shape[1]])

    def unpad(self, padded):
        """Takes the rows out of `[E, C, D]`, to `[sum(counts), D]`; any values in the remaining
        rows.
        """
        return tf.gather(tf.reshape(padded, [-1, padded.shape[-1]]), self.cells)

    def rows_of_rest(self):
        """The remaining rows, int32, in ascending order."""
        return tf.cast(tf.where(self.within >= self.size)[:, 0], tf.int32)
