"""Sums of the gradients of tables over the replicas of a `MixedStrategy`.

A step uses some rows of a table: an embedding, or the kernel of a sampled softmax. The sum over the
replicas needs each used row once, and no copy of the whole table:

1. Each replica adds up its rows of the same index.
2. Row i is owned by replica i mod R. Each replica sends its rows to their owners, and each owner
   adds up what it receives.
3. The owners' sums are gathered, so that all replicas have the same rows in the same order.

If U_r rows are used by a replica and U by all, a replica sends `(U_r + U)·(R-1)/R` rows with their
indices, and padding: parts are padded to the largest. A dense all-reduce sends `2·V·(R-1)/R` rows.

Axes: R replicas, N rows, P rows of a part (the maximum over all parts), W numbers in a row.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.distribute.static_shapes import static_shapes
from tfmoe.distribute.workers import is_mixed
from tfmoe.ops.tables import sum_rows

PADDING = -1


class Rows(NamedTuple):
    """Rows of a table.

    Attributes:
        indices: `[..., N]` int32, `PADDING` for no row.
        values: `[..., N, W]`.
    """

    indices: tf.Tensor
    values: tf.Tensor


def sum_repeated_rows(gradients: list) -> list:
    """Adds up rows of the same index in the gradients of one replica, for a Keras optimizer.

    Under a `MixedStrategy` the optimizer does this itself, and gradients are returned unchanged.
    Under another strategy with several replicas, Keras gathers the rows of all replicas; so there
    they become dense.

    Args:
        gradients: tensors, `tf.IndexedSlices` or `None`.

    Returns:
        The gradients in the same order.
    """
    if is_mixed(tf.distribute.get_strategy()):
        return gradients
    as_dense = static_shapes() or collectives.num_replicas() > 1
    return [sum_rows(gradient, as_dense) for gradient in gradients]


def sum_over_replicas(gradients: list) -> list:
    """Sums gradients of tables over the replicas of a `MixedStrategy`. All replicas must call it
    at the same point of the program.

    Args:
        gradients: `tf.IndexedSlices`, the same number with the same widths in all replicas. Indices
            may repeat.

    Returns:
        `tf.IndexedSlices` without repeated indices, the same on all replicas.
    """
    results: dict[int, Any] = {}
    for dtype in sorted({gradient.dtype.name for gradient in gradients}):
        positions = [i for i, gradient in enumerate(gradients) if gradient.dtype.name == dtype]
        summed = _sum([gradients[i] for i in positions])
        results.update(zip(positions, summed, strict=True))
    return [results[i] for i in range(len(gradients))]


def _sum(gradients):
    """`sum_over_replicas` for gradients of one dtype, in two exchanges for all of them together."""
    tables = [_added_up(_rows_of(gradient)) for gradient in gradients]
    counts = tf.stack([owner_counts(rows.indices) for rows in tables])  # [tables, R]
    sizes = tf.reduce_max(collectives.all_gather(counts), axis=[0, 2])
    parts = [by_owner(*each) for each in zip(tables, tf.unstack(sizes), strict=True)]
    owned = [_added_up(_flat(rows)) for rows in _communicated(parts, collectives.all_to_all)]

    counts = tf.stack([tf.size(rows.indices) for rows in owned])
    sizes = tf.reduce_max(collectives.all_gather(counts), axis=0)
    parts = [_padded(*each) for each in zip(owned, tf.unstack(sizes), strict=True)]
    gathered = [_flat(rows) for rows in _communicated(parts, collectives.all_gather)]
    return [
        tf.IndexedSlices(
            tf.reshape(rows.values, [-1, *gradient.values.shape[1:]]),
            tf.cast(rows.indices, gradient.indices.dtype),
            gradient.dense_shape,
        )
        for rows, gradient in zip(gathered, gradients, strict=True)
    ]


def _rows_of(gradient):
    width = gradient.values.shape[1:].num_elements()
    return Rows(tf.cast(gradient.indices, tf.int32), tf.reshape(gradient.values, [-1, width]))


def _added_up(rows):
    summed = sum_rows(tf.IndexedSlices(rows.values, rows.indices))
    return Rows(summed.indices, summed.values)


def owner_counts(indices: tf.Tensor) -> tf.Tensor:
    """The number of rows that each replica owns, `[R]` int32.

    Args:
        indices: `[N]` int32.
    """
    replicas = collectives.num_replicas()
    ones = tf.ones_like(indices)
    return tf.math.unsorted_segment_sum(ones, indices % replicas, replicas)


def by_owner(rows: Rows, size: tf.Tensor) -> Rows:
    """Arranges rows in a part for each owner, `[R, P]`, with padding.

    Args:
        rows: `Rows` `[N]`.
        size: P, at least the rows of each owner.
    """
    replicas = collectives.num_replicas()
    owners = rows.indices % replicas
    order = tf.argsort(owners, stable=True)
    owners = tf.gather(owners, order)
    starts = tf.cumsum(owner_counts(rows.indices), exclusive=True)
    cells = owners * size + tf.range(tf.size(order)) - tf.gather(starts, owners)
    # The row of each cell; the padding takes row N, which is added below.
    sources = tf.tensor_scatter_nd_update(
        tf.fill([replicas * size], tf.size(order)), cells[:, None], order
    )
    padded = _padded(rows, tf.size(order) + 1)
    shape = [replicas, size]
    return Rows(
        tf.reshape(tf.gather(padded.indices, sources), shape),
        tf.reshape(tf.gather(padded.values, sources), [*shape, rows.values.shape[1]]),
    )


def _padded(rows, size):
    missing = size - tf.size(rows.indices)
    indices = tf.pad(rows.indices, [[0, missing]], constant_values=PADDING)
    return Rows(indices, tf.pad(rows.values, [[0, missing], [0, 0]]))


def _communicated(parts, communicate):
    """Sends the parts of all tables in one operation for indices, and one for values.

    Args:
        parts: list of `Rows` `[..., P]`.
        communicate: function of a tensor whose result has the leading axes `[R]` and the last
            axis of the tensor.

    Returns:
        List of `Rows` `[R, P]`.
    """
    replicas = collectives.num_replicas()
    sizes = [tf.shape(rows.indices)[-1] for rows in parts]
    widths = [rows.values.shape[-1] for rows in parts]
    lengths = [size * width for size, width in zip(sizes, widths, strict=True)]
    flat = [
        tf.reshape(rows.values, tf.concat([tf.shape(rows.indices)[:-1], [length]], axis=0))
        for rows, length in zip(parts, lengths, strict=True)
    ]
    indices = tf.split(communicate(tf.concat([rows.indices for rows in parts], -1)), sizes, -1)
    values = tf.split(communicate(tf.concat(flat, -1)), lengths, -1)
    return [
        Rows(some_indices, tf.reshape(some_values, [replicas, -1, width]))
        for some_indices, some_values, width in zip(indices, values, widths, strict=True)
    ]


def _flat(rows):
    """`[R, P]` to `[N]`, without padding."""
    kept = tf.where(tf.reshape(rows.indices, [-1]) != PADDING)[:, 0]
    width = rows.values.shape[-1]
    return Rows(
        tf.gather(tf.reshape(rows.indices, [-1]), kept),
        tf.gather(tf.reshape(rows.values, [-1, width]), kept),
    )
