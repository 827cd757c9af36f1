"""Scaled dot-product attention over heads, and rotary positions.

Axes: B batch, T queries, S keys, H heads of queries, K heads of keys and values (H is a multiple of
K), U units of a head.

Masks get new axes by `tf.expand_dims`: LiteRT has no `mask[:, None]` of booleans.
"""

import tensorflow as tf


def split_heads(x, num_heads):
    """Splits the last axis into heads: `[B, S, H·U]` to `[B, H, S, U]`.

    It needs no reshape: tf2onnx 1.17 loses the shape between two successive ones, and a dense layer
    ends with one.
    """
    return tf.stack(tf.split(x, num_heads, axis=-1), axis=1)


def join_heads(x):
    """The inverse of `split_heads`: `[B, H, S, U]` to `[B, S, H·U]`."""
    return tf.concat(tf.unstack(x, axis=1), axis=-1)


def attend(queries, keys, values, mask=None):
    """Computes `softmax(q·kᵀ / √U)·v` for each head (Vaswani et al. 2017). Each key and value head
    serves H / K successive query heads (grouped-query attention, Ainslie et al. 2023).

    The softmax is computed in float32, or in float64 for float64 inputs.

    Args:
        queries: `[B, H, T, U]`.
        keys: `[B, K, S, U]`.
        values: `[B, K, S, U]`.
        mask: bool, broadcastable to `[B, T, S]`: `False` for a key that a query must not attend to;
            `None` for none.

    Returns:
        `[B, H, T, U]` contexts in the type of the inputs, 0 for a query without a key; and
        `[B, H, T, S]` weights, which sum to 1.
    """
    batch, num_queries, num_keys = tf.shape(queries)[0], tf.shape(queries)[2], tf.shape(keys)[2]
    num_heads, num_key_heads, units = queries.shape[1], keys.shape[1], queries.shape[3]
    num_rows = num_heads // num_key_heads * num_queries
    # The queries of the heads that share keys are rows of one matrix.
    rows = tf.reshape(queries * units**-0.5, [batch, num_key_heads, num_rows, units])
    scores = tf.matmul(rows, keys, transpose_b=True)
    scores = tf.reshape(scores, [batch, num_heads, num_queries, num_keys])
    scores = tf.cast(scores, _at_least_float32(scores.dtype))
    if mask is not None:
        scores = tf.where(tf.expand_dims(mask, 1), scores, scores.dtype.min)
    weights = tf.nn.softmax(scores)
    rows = tf.reshape(tf.cast(weights, values.dtype), [batch, num_key_heads, num_rows, num_keys])
    contexts = tf.reshape(tf.matmul(rows, values), [batch, num_heads, num_queries, units])
    if mask is not None:
        has_key = tf.reduce_any(mask, axis=-1, keepdims=True)
        contexts = tf.where(tf.expand_dims(has_key, 1), contexts, 0)
    return contexts, weights


def rotated(x, positions, base):
    """Rotates queries or keys by their positions (rotary embedding, Su et al. 2021).

    The pair `(x_i, x_{i+U/2})`, `0 <= i < U/2`, is rotated by the angle `position · base^(-2i/U)`.
    The product of a rotated query and a rotated key depends on the difference of their positions
    only.

    Args:
        x: `[B, H, S, U]`, U even.
        positions: `[B, S]` or `[1, S]` int32.
        base: a number above 0.

    Returns:
        `[B, H, S, U]`, in the type of x.
    """
    dtype, half = _at_least_float32(x.dtype), x.shape[-1] // 2
    frequencies = tf.constant([base ** (-i / half) for i in range(half)], dtype)
    angles = tf.cast(positions, dtype)[:, None, :, None] * frequencies
    cos, sin = tf.cos(angles), tf.sin(angles)
    first, second = tf.split(tf.cast(x, dtype), 2, axis=-1)
    turned = [first * cos - second * sin, second * cos + first * sin]
    return tf.cast(tf.concat(turned, axis=-1), x.dtype)


def _at_least_float32(dtype):
    return tf.float32 if dtype.size < 4 else dtype
