"""The noise that a gate has learned."""

import tensorflow as tf


def noise_deviation(gate, inputs):
    """The mean standard deviation of a gate's noise, `softplus(x·W_noise) + noise_floor` (eq 4).

    Args:
        gate: the built gate of a mixture.
        inputs: `[T, D]` tokens, in the gate's type.

    Returns:
        `{"noise": float32 scalar}`; of a hierarchical gate `{"primary_noise", "secondary_noise"}`,
        the latter over the tokens of each selected group. Empty for a gate without noise.
    """
    return gate.noise_deviation(tf.convert_to_tensor(inputs))
