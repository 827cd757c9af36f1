"""Stacks of residual blocks, which all models are made of."""

from tfmoe.layers import AttentionLSTM, ProjectedLSTM, Residual

RECURRENT = (AttentionLSTM, ProjectedLSTM)


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
            activation=None if isinstance(layer, RECURRENT) else "sigmoid",
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


def step_through(blocks, features, states):
    """Reads one more step of each row, with what all before left.

    Args:
        blocks: list of `Residual`, none of an `AttentionLSTM`.
        features: `[N, D]`, the first input.
        states: a list, of each `ProjectedLSTM` its states.

    Returns:
        `[N, D]`, the last output, and the new states.
    """
    new_states = []
    for block in blocks:
        if isinstance(block.layer, ProjectedLSTM):
            outputs, state = block.layer.step(features, states[len(new_states)])
            new_states.append(state)
            features = block.join(features, outputs)
        else:
            features = block(features)
    return features, new_states


def zero_states(blocks, num_rows):
    """The states of all recurrent layers before their first step, for N rows: a list."""
    layers = [block.layer for block in blocks if isinstance(block.layer, RECURRENT)]
    return [layer.zero_states(num_rows) for layer in layers]
