"""Stacks of residual blocks: the body of every model.

Axes: B batch, S steps, D model, N rows that are decoded step by step.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from tfmoe.layers import Residual

PADDING = 0  # the id of padding, which follows a sentence


def residual_blocks(
    layers: Sequence[keras.Layer],
    dropout: float = 0.0,
    seed: int | None = None,
    residual: bool | Sequence[bool] = True,
) -> list[Residual]:
    """Wraps layers in the paper's activation, dropout and residual connection.

    Args:
        layers: `tfmoe.layers.Block` layers. Other Keras layers get no activation.
        dropout: dropout rate of every layer's output.
        seed: integer, from which the blocks' different seeds are derived.
        residual: whether blocks have a residual connection: one boolean for all, or one for each
            layer.

    Returns:
        The `tfmoe.layers.Residual` blocks, one for each layer.

    Raises:
        ValueError: if `residual` is a list of another length than `layers`.
    """
    residual = [residual] * len(layers) if isinstance(residual, bool) else residual
    return [
        Residual(
            layer,
            activation=getattr(layer, "residual_activation", None),
            dropout=dropout,
            seed=None if seed is None else seed + 1 + i,
            residual=has_residual,
        )
        for i, (layer, has_residual) in enumerate(zip(layers, residual, strict=True))
    ]


def build_blocks(blocks, shape):
    """Builds the blocks of a stack, except blocks that are already built.

    Args:
        blocks: list of `tfmoe.layers.Block`.
        shape: input shape `(B, S, D)`, `None` for unknown dimensions.

    Raises:
        ValueError: if a block changes the shape.
    """
    shape = tuple(shape)
    for block in blocks:
        output_shape = tuple(block.compute_output_shape(shape))
        if output_shape != shape:
            raise ValueError(
                f"blocks must keep the shape {shape}: {block.name} returns {output_shape} (an LSTM "
                f"needs return_sequences=True, and projection_units={shape[-1]} if its units "
                "differ)"
            )
        if not block.built:
            block.build(shape)


def run(blocks, features, token_ids, training=False):
    """Applies a stack to whole sentences.

    Args:
        blocks: list of `tfmoe.layers.Block`.
        features: `[B, S, D]`.
        token_ids: `[B, S]` int32, 0 for padding, which must follow the sentence.
        training: whether to apply dropout and draw noise.

    Returns:
        `[B, S, D]`.
    """
    mask = tf.not_equal(token_ids, PADDING)
    for block in blocks:
        options = {"gate_inputs": token_ids} if block.needs_token_ids else {}
        block_mask = None if block.is_causal else mask
        features = block(features, mask=block_mask, training=training, **options)
    return features


def initial_states(blocks, num_rows):
    """The list of all blocks' states before the first step of N rows."""
    return [block.initial_state(num_rows) for block in blocks]


def run_step(blocks, features, states, token_ids):
    """Applies a stack to the next step of each row.

    Args:
        blocks: list of `tfmoe.layers.Block` without `needs_memory`.
        features: `[N, D]`.
        states: `initial_states`, or the states returned by the previous step.
        token_ids: `[N]` int32, the token of each row.

    Returns:
        `[N, D]` features and the new states.
    """
    new_states = []
    for block, state in zip(blocks, states, strict=True):
        options = {"gate_inputs": token_ids} if block.needs_token_ids else {}
        features, state = block.step(features, state, **options)
        new_states.append(state)
    return features, new_states


def choose_rows(condition, new, old):
    """Selects rows of `new` where the condition holds, else rows of `old`.

    Args:
        condition: `[N]` bool, whether a row is taken from `new`.
        new, old: nested structures of tensors `[N, …]` with equal shapes.

    Returns:
        The same structure, with the static shapes of `old`.
    """

    def choose(new, old):
        rows = tf.reshape(condition, [-1, *[1] * (old.shape.rank - 1)])
        return tf.ensure_shape(tf.where(rows, new, old), old.shape)

    return tf.nest.map_structure(choose, new, old)
