"""Load balancing: losses and metrics of expert use, as functions of sums over a batch.

Axes: E experts, G groups of a hierarchical mixture.

`sums` is the dictionary of a `tfmoe.gating.Routing`, added up over the global batch. Losses reduce
the last axis. The sums of a single gate, `[E]`, give a scalar; those of the G gates at the inner
level of a hierarchical mixture, `[G, E]`, give `[G]`.
"""

import tensorflow as tf

from tfmoe.ops.routing import normalized


def cv_squared(x: tf.Tensor) -> tf.Tensor:
    """The squared coefficient of variation: population variance over squared mean (eq 7 and 11).

    Args:
        x: `[..., E]` non-negative floating point, such as an importance vector.

    Returns:
        `[...]`; 0 where the mean is 0 (no token was routed) or E is 1.
    """
    mean = tf.reduce_mean(x, axis=-1)
    return tf.math.divide_no_nan(tf.math.reduce_variance(x, axis=-1), mean * mean)


def importance_loss(sums: dict) -> tf.Tensor:
    """`CV(Importance(X))²` (eq 7), computed from `importance`."""
    return cv_squared(sums["importance"])


def load_loss(sums: dict) -> tf.Tensor:
    """`CV(Load(X))²` (eq 11), computed from `smooth_load`, the differentiable estimate of eq 10.

    A gate without this estimate gets the loss of the token counts `load`, which has no gradient.
    """
    return cv_squared(sums.get("smooth_load", sums["load"]))


def load_balance_loss(sums: dict, load: str = "load") -> tf.Tensor:
    """`n · Σ_i f_i p_i` (Fedus et al. 2021, eq 4): f_i is the fraction of the tokens that go to
    expert i, p_i its mean probability.

    Args:
        sums: sums over the global batch, among them `tokens` and `probability`.
        load: the key of the sums from which f_i is computed.
    """
    num_experts = sums[load].shape[-1]
    dot = tf.reduce_sum(sums[load] * sums["probability"], axis=-1)
    return num_experts * tf.math.divide_no_nan(dot, sums["tokens"] ** 2)


def z_loss(sums: dict) -> tf.Tensor:
    """`(1/T) Σ_t (log Σ_i exp(logit_ti))²` (Zoph et al. 2022, the router z-loss).

    Args:
        sums: sums over the global batch, among them `tokens` and `squared_logsumexp`.
    """
    return tf.math.divide_no_nan(sums["squared_logsumexp"], sums["tokens"])


def sequence_balance(experts: tf.Tensor, scores: tf.Tensor, sequences) -> dict:
    """The sums of the sequence-wise balance loss of DeepSeek-V3.

    For a sequence of T tokens it is `Σ_i f_i P_i` with `f_i = E/(K·T)·Σ_t 1[t selects i]` and
    `P_i = (1/T)·Σ_t s_ti / Σ_j s_tj`, which is 1 if all experts are used alike. Only P has a
    gradient.

    Args:
        experts: `[T, K]` int32, the experts that each token selects.
        scores: `[T, E]`, positive.
        sequences: `tfmoe.gating.Groups`, the tokens of each sequence; `None` if all tokens of this
            device are one sequence.

    Returns:
        `{"sequence_balance": scalar, "sequences": scalar}`: the sum over the sequences, and the
        number of sequences with a token.
    """
    num_experts, k = scores.shape[-1], experts.shape[-1]
    selected = tf.reduce_sum(tf.one_hot(experts, num_experts, dtype=scores.dtype), axis=1)
    rows = selected, normalized(scores)
    if sequences is None:
        sums = [tf.reduce_sum(values, axis=0, keepdims=True) for values in rows]
        lengths = tf.cast(tf.shape(scores)[:1], scores.dtype)
    else:
        sums = [sequences.sum(values) for values in rows]
        lengths = tf.cast(sequences.sizes, scores.dtype)
    dots = tf.reduce_sum(sums[0] * sums[1], axis=-1)
    balance = num_experts / k * tf.math.divide_no_nan(dots, lengths**2)
    return {
        "sequence_balance": tf.reduce_sum(balance),
        "sequences": tf.reduce_sum(tf.cast(lengths > 0, scores.dtype)),
    }


def sequence_balance_loss(sums: dict) -> tf.Tensor:
    """The mean over the sequences of the loss of `sequence_balance`.

    Args:
        sums: sums over the global batch, among them those of `sequence_balance`.
    """
    return tf.math.divide_no_nan(sums["sequence_balance"], sums["sequences"])


def weighted_losses(sums: dict, *weighted: tuple) -> tf.Tensor | None:
    """The weighted sum of losses.

    Args:
        sums: sums over the global batch.
        *weighted: pairs `(weight, loss)` of a Python number and a function of the sums.

    Returns:
        The sum of the losses whose weight is not 0; `None` if every weight is 0.
    """
    losses = [weight * loss(sums) for weight, loss in weighted if weight]
    return tf.add_n(losses) if losses else None


def add_losses(*losses: tf.Tensor | None) -> tf.Tensor | None:
    """The sum of the scalar losses that are not `None`; `None` if all are."""
    given = [loss for loss in losses if loss is not None]
    return tf.add_n(given) if given else None


def hierarchical_load(
    primary_load: tf.Tensor, secondary_load: tf.Tensor, group_sizes: tf.Tensor
) -> tf.Tensor:
    """`Load_H(X)_ij = Load_primary(X)_i · Load_i(X⁽ⁱ⁾)_j / |X⁽ⁱ⁾|` (eq 14).

    Args:
        primary_load: `[G]`.
        secondary_load: `[G, E/G]`, from the tokens that each group received.
        group_sizes: `[G]`, the tokens that each group received: counts, not estimates.

    Returns:
        `[E]`; 0 for the experts of a group that received no token.
    """
    share = tf.math.divide_no_nan(
        secondary_load, tf.cast(group_sizes, secondary_load.dtype)[:, None]
    )
    return tf.reshape(primary_load[:, None] * share, [-1])


def experts_of_tokens(sums: dict) -> dict:
    """Metrics of gates that give tokens different numbers of experts.

    Args:
        sums: sums over the global batch, among them `routed`, the number of tokens with an expert.

    Returns:
        `{name: scalar}`: `experts_per_token`, the mean, and `unrouted`, the fraction of tokens
        without an expert.
    """
    load, tokens, routed = (tf.reduce_sum(sums[name]) for name in ("load", "tokens", "routed"))
    return {
        "experts_per_token": tf.math.divide_no_nan(load, tokens),
        "unrouted": tf.math.divide_no_nan(tokens - routed, tokens),
    }


def balance_metrics(importance: tf.Tensor, load: tf.Tensor) -> dict:
    """Metrics of how evenly a mixture uses its experts.

    Args:
        importance: `[E]`, eq 6.
        load: `[E]`, the tokens that each expert receives.

    Returns:
        `{name: scalar}`: `cv_importance`, `cv_load` (coefficients of variation),
        `max_over_mean_load` and `unused_experts` (fraction of experts that receive no token).
    """
    return {
        "cv_importance": tf.sqrt(cv_squared(importance)),
        "cv_load": tf.sqrt(cv_squared(load)),
        **load_metrics(load),
    }


def load_metrics(load: tf.Tensor) -> dict:
    """`max_over_mean_load` and `unused_experts` of `balance_metrics`, for the same `load`."""
    return {
        "max_over_mean_load": tf.math.divide_no_nan(tf.reduce_max(load), tf.reduce_mean(load)),
        "unused_experts": tf.reduce_mean(tf.cast(tf.equal(load, 0), load.dtype)),
    }
