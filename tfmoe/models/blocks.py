"""Stacks of residual blocks, which all models are made of."""

from tfmoe.layers import AttentionLSTM, ProjectedLSTM, Residual


def residual_blocks(layers, dropout=0.0, seed=None):
    """Puts the paper's dropout and residual connection around layers; a mixture's output goes
    through a sigmoid first.

    Args:
        layers: list of `ProjectedLSTM`, `AttentionLSTM`, `MoE` or `FeedForward`.
        dropout: on every layer's output.
        seed: integer; every block gets its own.

    Returns:
        List of `Residual`.
    """
    return [
        Residual(
            layer,
            activation=None if isinstance(layer, (ProjectedLSTM, AttentionLSTM)) else "sigmoid",
            dropout=dropout,
            seed=None if seed is None else seed + 1 + i,
        )
        for i, layer in enumerate(layers)
    ]


def features_by_block(blocks, features, mask, training):
    """Yields the input of every block, and at last the output of the last one.

    Args:
        blocks: list of `Residual`.
        features: `[B, S, D]`, the first input.
        mask: `[B, S]` bool, `False` for padding.
        training: whether to drop and to draw noise.
    """
    for block in blocks:
        yield features
        # Padding follows the sentence: through a recurrence it cannot reach a real step.
        needs_mask = not isinstance(block.layer, ProjectedLSTM)
        features = block(features, mask=mask if needs_mask else None, training=training)
    yield features
