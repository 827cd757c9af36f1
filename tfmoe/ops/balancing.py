"""How evenly the experts are used: losses and measures, all functions of sums over a batch.

Axes: E experts, G groups of a hierarchical mixture.

`sums` are those of a `tfmoe.gating.Routing`, added up over the global batch. Losses act on their
last axis: sums of a single gate, `[E]`, give a scalar; those of the G gates of a hierarchical
mixture's inner level, `[G, E]`, give `[G]`.
"""

import tensorflow as tf


def cv_squared(x):
    """The squared coefficient of variation: population variance over squared mean (eq 7 and 11).

    Args:
        x: `[..., E]` non-negative floating point, such as an importance vector.

    Returns:
        `[...]`; 0 where the mean is 0 (no token was routed) and for a single component.
    """
    mean = tf.reduce_mean(x, axis=-1)
    return tf.math.divide_no_nan(tf.math.reduce_variance(x, axis=-1), mean * mean)


def importance_loss(sums):
    """`CV(Importance(X))²` (eq 7), of `importance`."""
    return cv_squared(sums["importance"])


def load_loss(sums):
    """`CV(Load(X))²` (eq 11), of `smooth_load`, the estimate of eq 10; of the plain count `load`,
    which has no gradient, where a gate has no estimate.
    """
    return cv_squared(sums.get("smooth_load", sums["load"]))


def load_balance_loss(sums, load="load"):
    """`n · Σ_i f_i p_i` (Fedus et al. 2021, eq 4): f_i is the share of the tokens that go to expert
    i (of the sum named `load`), p_i its mean probability (of `probability`).
    """
    num_experts = sums[load].shape[-1]
    dot = tf.reduce_sum(sums[load] * sums["probability"], axis=-1)
    return num_experts * tf.math.divide_no_nan(dot, sums["tokens"] ** 2)


def weighted_losses(sums, *weighted):
    """The weighted sum of losses.

    Args:
        sums: of the global batch.
        *weighted: pairs of a weight, a Python number, and a loss, a function of the sums.

    Returns:
        The sum of the losses whose weight is not 0; `None` if every weight is 0.
    """
    losses = [weight * loss(sums) for weight, loss in weighted if weight]
    return tf.add_n(losses) if losses else None


def add_losses(*losses):
    """The sum of scalar losses, `None` counting as no loss; `None` if there is none."""
    losses = [loss for loss in losses if loss is not None]
    return tf.add_n(losses) if losses else None


def hierarchical_load(primary_load, secondary_load, group_sizes):
    """`Load_H(X)_ij = Load_primary(X)_i · Load_i(X⁽ⁱ⁾)_j / |X⁽ⁱ⁾|` (eq 14).

    Args:
        primary_load: `[G]`.
        secondary_load: `[G, E/G]`, from the tokens that went to each group.
        group_sizes: `[G]`, how many tokens went to each group: a count, not the estimate.

    Returns:
        `[E]`; 0 for the experts of a group that no token went to.
    """
    share = tf.math.divide_no_nan(
        secondary_load, tf.cast(group_sizes, secondary_load.dtype)[:, None]
    )
    return tf.reshape(primary_load[:, None] * share, [-1])


def use_of_experts(importance, load):
    """Measures of how evenly the experts of a mixture are used.

    Args:
        importance: `[E]`, eq 6.
        load: `[E]`, the tokens that each expert receives.

    Returns:
        `{name: scalar}`: `cv_importance`, `cv_load` (coefficients of variation),
        `max_over_mean_load` and `unused_experts` (fraction that receives no token).
    """
    mean = tf.reduce_mean(load)
    return {
        "cv_importance": tf.sqrt(cv_squared(importance)),
        "cv_load": tf.sqrt(cv_squared(load)),
        "max_over_mean_load": tf.math.divide_no_nan(tf.reduce_max(load), mean),
        "unused_experts": tf.reduce_mean(tf.cast(tf.equal(load, 0), load.dtype)),
    }
