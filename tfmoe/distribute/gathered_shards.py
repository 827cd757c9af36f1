"""Gathers the shards of a variable on every replica.

Axes: R replicas, E rows of the variable, P rows of the largest shard.
"""

import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.distribute.shards import shard_bounds


def gather_shards(shard: tf.Tensor, length: int, unit: int = 1) -> tf.Tensor:
    """Concatenates the shards of all replicas of a `MixedStrategy`; differentiable.

    Each replica then holds the whole variable for the length of a step. The gradient of a shard is
    the sum of the gradients that all replicas computed for it, as for experts that compute the rows
    of all replicas.

    Args:
        shard: the rows of the variable on this replica, as `shard_bounds` divides them.
        length: E, the rows on all replicas.
        unit: as for `shard_bounds`.

    Returns:
        `[E, ...]`; `shard` itself if this replica holds all rows.
    """
    if not collectives.shards_experts():
        return shard
    replicas, inner = collectives.num_replicas(), shard.shape[1:]
    bounds = shard_bounds(length, replicas, unit)
    num_rows = max(end - begin for begin, end in bounds)

    @tf.custom_gradient
    def gather(shard):
        def gradient(dy):
            parts = tf.stack([pad_rows(dy[begin:end], num_rows) for begin, end in bounds])
            return tf.reduce_sum(collectives.all_to_all(parts), axis=0)[: shard.shape[0]]

        parts = collectives.all_gather(pad_rows(shard, num_rows))  # [R, P, ...]
        parts = tf.ensure_shape(parts, [replicas, num_rows, *inner])
        rows = [
            part[: end - begin]
            for part, (begin, end) in zip(tf.unstack(parts), bounds, strict=True)
        ]
        return tf.concat(rows, axis=0), gradient

    return gather(shard)


def pad_rows(rows, num_rows):
    """Adds rows of zeros at the end, up to `num_rows`."""
    paddings = [[0, num_rows - rows.shape[0]], *[[0, 0]] * (rows.shape.rank - 1)]
    return tf.pad(rows, paddings)
