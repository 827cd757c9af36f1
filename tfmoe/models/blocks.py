"""Stacks of residual blocks: the body of every model.

Axes: B batch, S steps, D model, N rows that are decoded step by step.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from tfmoe.layers import Residual
from tfmoe.layers.normalization import EPSILON, Norm

PADDING = 0  # the id of padding, which follows a sentence


def residual_blocks(
    layers: Sequence[keras.Layer],
    dropout: float = 0.0,
    seed: int | None = None,
    residual: bool | Sequence[bool] = True,
    norm: Norm | Sequence[Norm | None] | None = None,
    activation: str | Sequence[str | None] | None = "default",
    norm_epsilon: float | Sequence[float] = EPSILON,
) -> list[Residual]:
    """Wraps layers in normalization, activation, dropout and residual connection.

    The defaults are the paper's. A Transformer has `norm="rms"` (or `"layer"`) and
    `activation=None`.

    Args:
        layers: `tfmoe.layers.Block` layers. Other Keras layers have no default activation.
        dropout: dropout rate of every layer's output.
        seed: integer, from which the blocks' different seeds are derived.
        residual: whether blocks have a residual connection: one boolean for all, or one for each
            layer.
        norm: normalization of the inputs of layers, `"rms"`, `"layer"` or `None`: one for all, or
            one for each layer.
        activation: activation of the outputs of layers, before dropout; `None` for none;
            `"default"` for the paper's, `Block.residual_activation`: one for all, or one for each
            layer.
        norm_epsilon: epsilon of the normalizations: one for all, or one for each layer.

    Returns:
        The `tfmoe.layers.Residual` blocks, one for each layer.

    Raises:
        ValueError: if `residual`, `norm`, `activation` or `norm_epsilon` is a list of another
            length than `layers`, or has an invalid value.
    """

    def by_layer(value):
        is_single = value is None or isinstance(value, (str, int, float))
        return [value] * len(layers) if is_single else value

    def activation_of(layer, chosen):
        return getattr(layer, "residual_activation", None) if chosen == "default" else chosen

    options = zip(
        layers,
        *map(by_layer, (residual, norm, activation, norm_epsilon)),
        strict=True,
    )
    return [
        Residual(
            layer,
            activation=activation_of(layer, chosen),
            dropout=dropout,
            seed=None if seed is None else seed + 1 + i,
            residual=has_residual,
            norm=norm_of_layer,
            norm_epsilon=epsilon,
        )
        for i, (layer, has_residual, norm_of_layer, chosen, epsilon) in enumerate(options)
    ]


def check_no_later_positions(argument, blocks):
    """Checks that blocks predict a word from earlier words only.

    Args:
        argument: the argument's name, for the error.
        blocks: list of `tfmoe.layers.Block`.

    Raises:
        ValueError: if a block reads later positions.
    """
    for index, block in enumerate(blocks):
        if block.reads_later:
            raise ValueError(
                f"{argument}[{index}] must not read later positions, which are the words to "
                f"predict, got {block.name} (self-attention needs causal=True)"
            )


def check_memory(encoder, decoder):
    """Checks that a block of the decoder attends to the source, and no block of the encoder.

    Args:
        encoder: list of `tfmoe.layers.Block`.
        decoder: list of `tfmoe.layers.Block`.

    Raises:
        ValueError: if the check fails.
    """
    if not any(block.needs_memory for block in decoder):
        raise ValueError(
            "decoder must have a block that attends to the source, such as an AttentionLSTM or "
            f"CrossAttention, got {[block.name for block in decoder]}"
        )
    for index, block in enumerate(encoder):
        if block.needs_memory:
            raise ValueError(
                f"encoder[{index}] must not attend to a source, which only a decoder has, got "
                f"{block.name}"
            )


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


def run(blocks, features, token_ids, training=False, memory=None, memory_mask=None):
    """Applies a stack to whole sentences.

    Args:
        blocks: list of `tfmoe.layers.Block`.
        features: `[B, S, D]`.
        token_ids: `[B, S]` int32, 0 for padding, which must follow the sentence.
        training: whether to apply dropout and draw noise.
        memory, memory_mask: the source that blocks with `needs_memory` attend to, `[B, M, D]` and
            `[B, M]` bool.

    Returns:
        `[B, S, D]`.
    """
    mask = tf.not_equal(token_ids, PADDING)
    for block in blocks:
        options = {"gate_inputs": token_ids} if block.needs_token_ids else {}
        if block.needs_memory:
            options |= {"memory": memory, "memory_mask": memory_mask}
        block_mask = None if block.is_causal else mask
        features = block(features, mask=block_mask, training=training, **options)
    return features


def attention_weights(blocks, features, token_ids, memory, memory_mask):
    """The attention weights of the blocks with `needs_memory` in whole sentences, in evaluation.

    Args:
        blocks, features, token_ids, memory, memory_mask: as for `run`.

    Returns:
        `[B, S, M]` float32, the mean of these blocks.
    """
    weights = []
    for block in blocks:
        if block.needs_memory:
            features, attention = block.with_attention(features, memory, memory_mask)
            weights.append(attention)
        else:
            features = run([block], features, token_ids)
    return tf.add_n(weights) / len(weights)


def initial_states(blocks, num_rows, max_length=None):
    """The list of all blocks' states before the first step of N rows.

    Args:
        blocks: list of `tfmoe.layers.Block`.
        num_rows: N, an integer or a scalar tensor.
        max_length: the maximum number of steps, which blocks with a cache need.
    """
    return [block.initial_state(num_rows, max_length) for block in blocks]


def prepared_sources(blocks, memory, memory_mask):
    """What the steps of each block share, a list: `[Block.prepared]` for a block with
    `needs_memory`, else empty.

    Args:
        blocks: list of `tfmoe.layers.Block`.
        memory: `[N, M, D]`.
        memory_mask: `[N, M]` bool.
    """
    return [[block.prepared(memory, memory_mask)] if block.needs_memory else [] for block in blocks]


def run_step(blocks, features, states, token_ids, sources=None):
    """Applies a stack to the next step of each row.

    Args:
        blocks: list of `tfmoe.layers.Block`.
        features: `[N, D]`.
        states: `initial_states`, or the states returned by the previous step.
        token_ids: `[N]` int32, the token of each row.
        sources: `prepared_sources`; `None` if no block has `needs_memory`.

    Returns:
        `[N, D]` features, the new states, and `[N, M]` float32 attention weights, the mean of the
        blocks with `needs_memory`; `None` without such blocks.
    """
    new_states, weights = [], []
    for block, state, source in zip(blocks, states, sources or [[]] * len(blocks), strict=True):
        options = {"gate_inputs": token_ids} if block.needs_token_ids else {}
        features, state, *attention = block.step(features, state, *source, **options)
        new_states.append(state)
        weights += attention
    return features, new_states, tf.add_n(weights) / len(weights) if weights else None


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
