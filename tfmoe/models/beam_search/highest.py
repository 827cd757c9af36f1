"""The highest values of each row, for few values of long rows.

Axes: N rows, V values of a row, K highest values, C blocks of a row, Z values of a block.
"""

import math

import tensorflow as tf


def highest(values: tf.Tensor, k: int) -> tuple[tf.Tensor, tf.Tensor]:
    """`tf.math.top_k` in less time: it looks for the K blocks with the highest maxima, which have
    the K highest values, and then within these blocks.

    Args:
        values: `[N, V]` floating point without NaN, V known.
        k: K, at most V.

    Returns:
        `[N, K]` values, descending, and `[N, K]` int32, their indices in 0..V-1; of equal values
        the one with the lower index comes first, unless they are `-inf`.
    """
    width = values.shape[1]
    size = math.isqrt(width // k)
    if size < 4:  # the blocks would have about as many values as the row
        return tf.math.top_k(values, k)
    size = next((z for z in range(size, 2 * size) if width % z == 0), size)
    if missing := -width % size:
        values = tf.pad(values, [[0, 0], [0, missing]], constant_values=float("-inf"))
    blocks = tf.reshape(values, [-1, (width + missing) // size, size])
    # In the order of the row, so that of equal values the first one is found.
    chosen = tf.sort(tf.math.top_k(tf.reduce_max(blocks, axis=2), k).indices, axis=1)
    candidates = tf.reshape(tf.gather(blocks, chosen, batch_dims=1), [-1, k * size])
    best, index = tf.math.top_k(candidates, k)
    ids = tf.gather(chosen, index // size, batch_dims=1) * size + index % size
    return best, tf.minimum(ids, width - 1)  # a value that was added is -inf
