"""The real tokens among the positions of a batch, and the way back.

Axes: T tokens, D model.
"""

import tensorflow as tf


def real_tokens(inputs, mask=None):
    """The tokens of a batch that are not masked.

    Args:
        inputs: `[..., D]`.
        mask: `None`, or bool of all axes of `inputs` but the last, or of the first of them.

    Returns:
        `[T, D]` tokens; their places `[T, 1]`, or `None` without a mask.
    """
    tokens = tf.reshape(inputs, [-1, inputs.shape[-1]])
    if mask is None:
        return tokens, None
    places = tf.where(flat_mask(mask, inputs))
    return tf.gather_nd(tokens, places), places


def at_positions(outputs, places, inputs):
    """Outputs of the tokens where their inputs were; 0 at masked positions.

    Args:
        outputs: `[T, N]`.
        places: as `real_tokens` gives them.
        inputs: `[..., D]`.

    Returns:
        `[..., N]`, in the type of `outputs`.
    """
    width = outputs.shape[-1]
    if places is not None:
        num_positions = tf.reduce_prod(tf.shape(inputs)[:-1])  # a mask may have fewer axes
        shape = tf.cast([num_positions, width], places.dtype)
        outputs = tf.scatter_nd(places, outputs, shape)
    outputs = tf.reshape(outputs, tf.concat([tf.shape(inputs)[:-1], [width]], axis=0))
    return tf.ensure_shape(outputs, [*inputs.shape[:-1], width])


def flat_mask(mask, inputs):
    """`[T]` bool from a mask of all axes of `inputs` but the last, or of the first of them.

    Raises:
        ValueError: for a mask of another shape.
    """
    mask = tf.cast(mask, tf.bool)
    axes, shape = inputs.shape[:-1], mask.shape
    fits = shape.rank is not None and 1 <= shape.rank <= axes.rank
    if not (fits and axes[: shape.rank].is_compatible_with(shape)):
        raise ValueError(
            f"mask must have the shape of the inputs without their last axis, {tuple(axes)}, or of "
            f"the first axes of it, got {shape}"
        )
    missing = axes.rank - shape.rank
    mask = tf.reshape(mask, tf.concat([tf.shape(mask), tf.ones([missing], tf.int32)], axis=0))
    return tf.reshape(tf.broadcast_to(mask, tf.shape(inputs)[:-1]), [-1])
