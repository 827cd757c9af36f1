"""The noise that a gate has learned."""

import tensorflow as tf

from tfmoe.gating import Hierarchical
from tfmoe.ops import dispatch


def noise_deviation(gate, inputs):
    """The mean standard deviation of a gate's noise, `softplus(x·W_noise) + noise_floor` (eq 4).

    Args:
        gate: the built gate of a mixture.
        inputs: `[T, D]` tokens, in the gate's type.

    Returns:
        `{"noise": float32 scalar}`; of a hierarchical gate `{"primary_noise", "secondary_noise"}`,
        the latter over the tokens of each selected group. Empty for a gate without noise.
    """
    if not isinstance(gate, Hierarchical):
        return {"noise": mean_deviation(gate, inputs)} if has_noise(gate) else {}
    found = {}
    if has_noise(gate.primary):
        found["primary_noise"] = mean_deviation(gate.primary, inputs)
    if has_noise(gate.secondary):
        plan = dispatch.plan(gate.primary.select(inputs).experts, gate.groups)
        rows = dispatch.dispatch(inputs, plan)
        found["secondary_noise"] = mean_deviation(gate.secondary, rows, plan.counts)
    return found


def has_noise(gate):
    """Whether a flat gate has noise to learn."""
    return "noise_kernel" in gate.kernel_names


def mean_deviation(gate, inputs, group_sizes=None):
    """The mean over tokens and experts of a flat gate's standard deviation."""
    deviation = tf.nn.softplus(gate.logits("noise_kernel", inputs, group_sizes))
    return tf.reduce_mean(deviation) + gate.noise_floor
