"""Rows sorted by expert, arranged in parts of equal size, so that one batched product computes all
of them.

Axes: A rows, E experts, N parts, C rows of each part, D width of a row.

No shape depends on the number of rows of an expert, and all operations exist in XLA, ONNX, LiteRT
and TensorFlow.js. Cells of a part without a row are 0.
"""

from typing import NamedTuple

import tensorflow as tf


class PaddedRows(NamedTuple):
    """The cell of each row in N parts of C cells.

    Attributes:
        rows: `[N, C]` int32, the row in each cell; any valid index in cells without a row.
        is_row: `[N, C]` bool, whether the cell has a row.
        cells: `[A]` int32, the cell of each row among all N·C; any valid index for rows of no
            expert.
        has_cell: `[A]` bool, whether the row belongs to an expert.
    """

    rows: tf.Tensor
    is_row: tf.Tensor
    cells: tf.Tensor
    has_cell: tf.Tensor

    def pad(self, rows: tf.Tensor) -> tf.Tensor:
        """Arranges rows in parts, `[A, ...]` to `[N, C, ...]`; the gradient is `unpad`."""

        @tf.custom_gradient
        def pad(rows):
            return taken(rows, self.rows, self.is_row), self.unpad

        return pad(rows)

    def unpad(self, parts: tf.Tensor) -> tf.Tensor:
        """Takes the rows out of the parts, `[N, C, ...]` to `[A, ...]`; 0 for rows of no expert.
        The gradient is `pad`.
        """

        @tf.custom_gradient
        def unpad(parts):
            shape = tf.concat([[-1], tf.shape(parts)[2:]], axis=0)
            cells = tf.ensure_shape(tf.reshape(parts, shape), [None, *parts.shape[2:]])
            return taken(cells, self.cells, self.has_cell), self.pad

        return unpad(parts)


def equal_parts(counts: tf.Tensor, num_rows: tf.Tensor, size: tf.Tensor) -> PaddedRows:
    """One part for each expert.

    Args:
        counts: `[E]` int32, the rows of each expert, at most C.
        num_rows: A, int32 scalar; rows from `sum(counts)` on belong to no expert.
        size: C, int32 scalar, at least 1.
    """
    starts, last = tf.cumsum(counts, exclusive=True), counts.shape[0] - 1
    within = tf.range(size)[None]
    expert = expert_of_rows(counts, num_rows)
    known = tf.minimum(expert, last)
    row = tf.minimum(tf.range(num_rows) - tf.gather(starts, known), size - 1)
    return PaddedRows(
        rows=tf.clip_by_value(starts[:, None] + within, 0, num_rows - 1),
        is_row=within < counts[:, None],
        cells=known * size + row,
        has_cell=expert <= last,
    )


def blocks(counts: tf.Tensor, num_rows: tf.Tensor) -> tuple[PaddedRows, tf.Tensor]:
    """Parts of one size, of which an expert has as many as its rows need: no expert has a limit.

    With blocks of `C = max(A // E, 1)` rows there are at most `A // C + E` blocks, however the
    rows are distributed, and at most A, since every block has a row.

    Args:
        counts: `[E]` int32, the rows of each expert.
        num_rows: A, int32 scalar; rows from `sum(counts)` on belong to no expert.

    Returns:
        The rows in blocks; and the expert of each block, `[N]` int32 (any for an empty block).
    """
    num_experts = counts.shape[0]
    size = tf.maximum(num_rows // num_experts, 1)
    num_blocks = tf.minimum(num_rows // size + num_experts, tf.maximum(num_rows, 1))
    starts = tf.cumsum(counts, exclusive=True)
    blocks_of_expert = (counts + size - 1) // size
    first_block = tf.cumsum(blocks_of_expert, exclusive=True)
    expert_of_block = tf.minimum(expert_of_rows(blocks_of_expert, num_blocks), num_experts - 1)
    block = tf.range(num_blocks) - tf.gather(first_block, expert_of_block)
    within = block[:, None] * size + tf.range(size)[None]  # the row of the expert in each cell
    expert = expert_of_rows(counts, num_rows)
    known = tf.minimum(expert, num_experts - 1)
    row = tf.range(num_rows) - tf.gather(starts, known)
    cells = tf.gather(first_block, known) * size + row
    padded = PaddedRows(
        rows=tf.clip_by_value(
            tf.gather(starts, expert_of_block)[:, None] + within, 0, num_rows - 1
        ),
        is_row=within < tf.gather(counts, expert_of_block)[:, None],
        cells=tf.minimum(cells, num_blocks * size - 1),
        has_cell=expert < num_experts,
    )
    return padded, expert_of_block


def expert_of_rows(counts: tf.Tensor, num_rows: tf.Tensor) -> tf.Tensor:
    """The expert of each row, `[A]` int32; E for rows from `sum(counts)` on.

    It compares every row with every expert.

    Args:
        counts: `[E]` int32, the rows of each expert.
        num_rows: A, int32 scalar.
    """
    is_after = tf.range(num_rows)[:, None] >= tf.cumsum(counts)[None]
    return tf.reduce_sum(tf.cast(is_after, tf.int32), axis=1)


def taken(rows, index, is_taken):
    """`rows[index]` where `is_taken`, else 0. There must be a row, unless nothing is taken."""
    values = tf.gather(rows, index)
    for _ in range(values.shape.rank - is_taken.shape.rank):
        is_taken = tf.expand_dims(is_taken, -1)  # LiteRT cannot slice bool
    return tf.where(is_taken, values, tf.zeros([], values.dtype))
