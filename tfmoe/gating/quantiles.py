"""Sums of quantiles: the mean over the batches of a step.

Axes: E experts, G groups of a hierarchical mixture.
"""

import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.gating.routing import are_grouped


def quantile_sums(quantile, groups, dtype):
    """The sums of a `tfmoe.gating.Routing` that `mean_quantile` reads.

    Args:
        quantile: `[E]` or `[G, E]`, the result of `lowest_taken`.
        groups: the `tfmoe.gating.Groups` of the rows, or `None`.
        dtype: the dtype of the sums.

    Returns:
        `{"quantile": sum, "num_quantiles": count}`. If other replicas have rows for the same
        experts, both are 0 on all replicas but the first: all replicas have the same quantiles.
    """
    is_known = quantile < quantile.dtype.max
    sums = {"quantile": tf.where(is_known, quantile, 0), "num_quantiles": is_known}
    sums = {name: tf.cast(values, dtype) for name, values in sums.items()}
    is_shared = groups.shared if are_grouped(groups) else collectives.num_replicas() > 1
    if is_shared:
        is_first = tf.equal(collectives.replica_id(), 0)
        sums = {name: tf.where(is_first, values, 0) for name, values in sums.items()}
    return sums


def mean_quantile(sums):
    """The mean of the quantiles of the routings whose sums were added up, such as those of the
    steps of a `MoELSTM`.

    Args:
        sums: as for `tfmoe.gating.Gate.update`.

    Returns:
        `[E]` or `[G, E]`; 0 for an expert that took no token.
    """
    return tf.math.divide_no_nan(sums["quantile"], sums["num_quantiles"])
