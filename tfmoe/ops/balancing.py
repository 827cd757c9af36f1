"""How evenly the experts are used: importance, load, and the loss on them.

Axes: T tokens, E experts, K selected experts per token, G groups of a hierarchical mixture.
"""

import tensorflow as tf


def cv_squared(x):
    """The squared coefficient of variation: population variance over squared mean (eq 7 and 11).

    Args:
        x: `[...]` non-negative floating point, all components together, such as an importance
            vector.

    Returns:
        A scalar; 0 where the mean is 0 (no example was routed) and for a single component.
    """
    mean = tf.reduce_mean(x)
    return tf.math.divide_no_nan(tf.math.reduce_variance(x), mean * mean)


def importance(experts, gates, num_experts):
    """`Importance(X)_i = Σ_x G(x)_i` (eq 6; with the products of both gates, eq 13).

    Args:
        experts: `[T, K]` int32 expert ids.
        gates: `[T, K]` floating point.
        num_experts: E.

    Returns:
        `[E]`, like `gates`, and differentiable in them.
    """
    return tf.math.unsorted_segment_sum(
        tf.reshape(gates, [-1]), tf.reshape(experts, [-1]), num_experts
    )


def count(experts, num_experts, dtype=tf.float32):
    """The hard load: how many examples each expert receives. No gradient.

    Args:
        experts: `[...]` int32 expert ids, not negative; ids from E on count nowhere.
        num_experts: E.
        dtype: of the result.

    Returns:
        `[E]`.
    """
    flat = tf.reshape(experts, [-1])
    counts = tf.math.bincount(flat, minlength=num_experts, maxlength=num_experts)
    return tf.cast(counts, dtype)


def hierarchical_load(primary_load, secondary_load, group_sizes):
    """`Load_H(X)_ij = Load_primary(X)_i · Load_i(X⁽ⁱ⁾)_j / |X⁽ⁱ⁾|` (eq 14).

    Args:
        primary_load: `[G]`.
        secondary_load: `[G, E/G]`, from the examples that went to each group.
        group_sizes: `[G]`, how many examples went to each group: a count, not the estimate.

    Returns:
        `[E]`; 0 for the experts of a group that no example went to.
    """
    share = tf.math.divide_no_nan(
        secondary_load, tf.cast(group_sizes, secondary_load.dtype)[:, None]
    )
    return tf.reshape(primary_load[:, None] * share, [-1])
