"""The learned noise of a gate."""

import tensorflow as tf

from tfmoe.gating import Gate


def noise_deviation(gate: Gate, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
    """The mean standard deviation of a gate's noise, `softplus(x·W_noise) + noise_floor` (eq 4).

    Args:
        gate: the built gate of a mixture.
        inputs: `[T, D]` tokens, in the gate's dtype.

    Returns:
        `{"noise": float32 scalar}`; for a hierarchical gate `{"primary_noise", "secondary_noise"}`,
        the latter over the tokens of each selected group; empty for a gate without noise.
    """
    return gate.noise_deviation(tf.convert_to_tensor(inputs))
