"""Selection by thresholds: an expert takes the tokens whose probabilities exceed its threshold.

Axes: T tokens, E experts of one gate, G groups of a hierarchical mixture.
"""

import tensorflow as tf

from tfmoe.distribute.static_shapes import static_shapes
from tfmoe.gating.routing import are_grouped, mask_of, rows_of
from tfmoe.ops.assignments import assign_mask


def assign_over_thresholds(probability, thresholds, groups=None):
    """Assigns each token to the experts whose thresholds its probabilities exceed.

    Args:
        probability: `[T, E]` floating point.
        thresholds: `[E]`; `[G, E]` with groups.
        groups: `None`, or the `tfmoe.gating.Groups` of the tokens.

    Returns:
        `Assignments` with the probabilities as weights, to `G·E` experts with groups; and `[T]`
        bool, whether a token has an expert. A single expert takes all tokens: its probability is 1,
        which does not exceed a threshold of 1.
    """
    first_expert, num_experts = 0, probability.shape[1]
    mask = probability > rows_of(thresholds, groups)
    if num_experts == 1:
        mask = tf.ones_like(mask)
    if mask_of(groups) is not None:
        mask &= tf.expand_dims(mask_of(groups), 1)
    if are_grouped(groups):
        first_expert = groups.of_rows() * num_experts
        num_experts *= groups.sizes.shape[0]
    assignments = assign_mask(mask, probability, first_expert, num_experts, static_shapes())
    return assignments, tf.reduce_any(mask, axis=1)
