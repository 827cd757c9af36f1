"""Gathers the tokens that are not masked, and scatters outputs back to their positions.

Axes: T tokens, D model.

With static shapes masked rows stay, a gate routes them to no expert, and outputs are set to 0.
"""

import tensorflow as tf

from tfmoe.distribute.static_shapes import static_shapes


def real_tokens(inputs, mask=None):
    """Gathers the tokens of a batch that are not masked.

    Args:
        inputs: `[..., D]`.
        mask: `None`; or bool, with the leading axes of `inputs` (all but the last, or fewer).

    Returns:
        `[T, D]` tokens; and their positions `[T, 1]`, or `None` if all rows stay: without a mask,
        and with static shapes.
    """
    tokens = tf.reshape(inputs, [-1, inputs.shape[-1]])
    if mask is None or static_shapes():
        return tokens, None
    positions = tf.where(flat_mask(mask, inputs))
    return tf.gather_nd(tokens, positions), positions


def row_mask(inputs, mask=None):
    """Which rows of `real_tokens` are not masked, `[T]` bool; `None` if none is.

    Args:
        inputs: as for `real_tokens`.
        mask: as for `real_tokens`.
    """
    return None if mask is None or not static_shapes() else flat_mask(mask, inputs)


def at_positions(outputs, positions, inputs, mask=None):
    """Scatters the outputs of tokens to the positions of their inputs; masked positions get 0.

    Args:
        outputs: `[T, N]`.
        positions: as returned by `real_tokens`.
        inputs: `[..., D]`.
        mask: as for `real_tokens`.

    Returns:
        `[..., N]`, with the dtype of `outputs`.
    """
    width = outputs.shape[-1]
    is_token = row_mask(inputs, mask)
    if is_token is not None:
        outputs = tf.where(tf.expand_dims(is_token, 1), outputs, tf.zeros([], outputs.dtype))
    if positions is not None:
        num_positions = tf.reduce_prod(tf.shape(inputs)[:-1])  # a mask may have fewer axes
        shape = tf.cast([num_positions, width], positions.dtype)
        outputs = tf.scatter_nd(positions, outputs, shape)
    outputs = tf.reshape(outputs, tf.concat([tf.shape(inputs)[:-1], [width]], axis=0))
    outputs.set_shape([*inputs.shape[:-1], width])  # LiteRT does not always have ensure_shape
    return outputs


def flat_mask(mask, inputs):
    """Broadcasts a mask with the leading axes of `inputs` to all positions, `[T]` bool.

    Raises:
        ValueError: the mask has another shape.
    """
    mask = tf.cast(mask, tf.bool)
    axes, shape = inputs.shape[:-1], mask.shape
    has_valid_rank = shape.rank is not None and 1 <= shape.rank <= axes.rank
    if not (has_valid_rank and axes[: shape.rank].is_compatible_with(shape)):
        raise ValueError(
            f"mask must have the shape of the inputs without the last axis, {tuple(axes)}, or the "
            f"first axes of it, got {shape}"
        )
    num_missing = axes.rank - shape.rank
    mask = tf.reshape(mask, tf.concat([tf.shape(mask), tf.ones([num_missing], tf.int32)], axis=0))
    return tf.reshape(tf.broadcast_to(mask, tf.shape(inputs)[:-1]), [-1])
