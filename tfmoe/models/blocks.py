"""Stacks of residual blocks, which all models are made of.

Axes: B batch, S steps, D model, N rows that are read step by step.
"""

import tensorflow as tf

from tfmoe.layers import Residual


def residual_blocks(layers, dropout=0.0, seed=None, residual=True):
    """Puts the paper's activation, dropout and residual connection around layers.

    Args:
        layers: list of `tfmoe.layers.Block`; other Keras layers get no activation.
        dropout: on every layer's output.
        seed: integer; every block gets its own.
        residual: whether blocks have residual connections: a boolean, or a list with one for each
            layer.

    Returns:
        List of `Residual`.
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
    """Builds the blocks of a stack; those read from a saved model are built.

    Args:
        blocks: list of `tfmoe.layers.Block`.
        shape: of their inputs, `(B, S, D)`; `None` for what is not known.

    Raises:
        ValueError: if a block changes the shape.
    """
    shape = tuple(shape)
    for block in blocks:
        found = tuple(block.compute_output_shape(shape))
        if found != shape:
            raise ValueError(
                f"blocks must keep the shape {shape}: {block.name} makes {found} of it (an LSTM "
                f"needs return_sequences=True, and projection_units={shape[-1]} if it has another "
                "width)"
            )
        if not block.built:
            block.build(shape)


def run(blocks, features, mask, training=False):
    """Runs sentences through a stack.

    Args:
        blocks: list of `tfmoe.layers.Block`.
        features: `[B, S, D]`.
        mask: `[B, S]` bool, `False` for padding, which must follow the sentence.
        training: whether to drop and to draw noise.

    Returns:
        `[B, S, D]`.
    """
    for block in blocks:
        features = block(features, mask=None if block.is_causal else mask, training=training)
    return features


def initial_states(blocks, num_rows):
    """The states of all blocks before the first step of N rows: a list."""
    return [block.initial_state(num_rows) for block in blocks]


def run_step(blocks, features, states):
    """Reads one more step of each row.

    Args:
        blocks: list of `tfmoe.layers.Block`, none of which `needs_memory`.
        features: `[N, D]`.
        states: `initial_states`, or those of the step before.

    Returns:
        `[N, D]` features and the new states.
    """
    new_states = []
    for block, state in zip(blocks, states, strict=True):
        features, state = block.step(features, state)
        new_states.append(state)
    return features, new_states


def choose_rows(condition, new, old):
    """Takes some rows from one structure of tensors and the others from another.

    Args:
        condition: `[N]` bool, whether a row is taken from `new`.
        new, old: nested structures of tensors `[N, …]`, of equal shapes.

    Returns:
        The same structure, with the static shapes of `old`.
    """

    def choose(new, old):
        rows = tf.reshape(condition, [-1, *[1] * (old.shape.rank - 1)])
        return tf.ensure_shape(tf.where(rows, new, old), old.shape)

    return tf.nest.map_structure(choose, new, old)
