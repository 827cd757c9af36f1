"""Strictly balanced gating (App. F): in training every expert takes equally many examples.

Axes: T tokens, E experts, D model, G groups, A assignments.
"""

import math

import keras
import tensorflow as tf

from tfmoe.distribute.best_tokens import best_tokens
from tfmoe.gating.gate import Gate
from tfmoe.ops.arguments import non_negative
from tfmoe.ops.assignments import assign_mask, renormalize_weights
from tfmoe.ops.balancing import add_losses, importance_loss, weighted_losses


@keras.saving.register_keras_serializable("tfmoe")
class Batchwise(Gate):
    """`G(x)_i = G_σ(x)_i·M_i / Σ_j G_σ(x)_j·M_j` with `G_σ = softmax(x·W_g)` (eq 15-16).

    In training M is the batchwise mask (eq 18): every expert takes its `m = ⌈k·T/E⌉` best tokens of
    the global batch, among equal probabilities the earlier ones. (Probabilities of equal tokens can
    differ in the last bit, which matrix products round by the place of a row.) A token can have any
    number of experts, k on average; a token that no expert took gets 0 from the mixture.

    At inference M is the threshold mask (eq 19): `M_i = 1 if G_σ(x)_i > T_i`, so that what a token
    gets does not depend on the rest of its batch. The thresholds are trained by `L_batchwise` (eq
    20) alone, and it trains nothing else.

    Paper: `m = k·|X|/n`, with no word on a remainder. Here m is rounded up, so that an expert takes
    a token of every batch at least, and a token has a little more than k experts on average.

    Paper: `L_batchwise` is there to learn the thresholds; its formula has G_σ too, with no word on
    whether `W_g` learns from it. Here G_σ is a constant in it: `W_g` learns from the task and the
    importance loss alone.

    Paper: `L_batchwise` is a sum over the batch; here it is the mean over its tokens (in a
    secondary gate over those that its groups took), so that its gradient, which counts in a clipped
    global norm, does not grow with the batch. The variable is log T, since the values of G_σ are of
    the order 1/E, too small for the steps of an optimizer; it moves by the gradient with respect to
    T, which is m less the number of tokens over the threshold. Thresholds start at 1/E. `W_g`
    starts at small random values: with zeros all experts would take the same tokens.

    Args:
        k: mean number of experts per token, 1 <= k <= num_experts.
        importance_weight: w_importance of eq 7. The load needs no loss: it is exactly equal.

    Metrics of the mixture. In training: `threshold_precision`, the share of the threshold mask that
    is in the batchwise mask, and `threshold_recall`, the other way round. In evaluation, and in
    training of a flat mixture: `experts_per_token` and `unrouted` (share of tokens without an
    expert), both by the thresholds.

    Raises:
        ValueError: if k is out of its range.

    Example:
        >>> moe = MoE(num_experts=32, hidden_units=2048, gate=Batchwise(k=4))
    """

    RETIRED = ("load_weight",)
    KEPT_PER_LOGIT = 2  # G_σ, and its excess over the thresholds (eq 20)
    METRICS = ("threshold_precision", "threshold_recall", "experts_per_token", "unrouted")

    def __init__(self, k=4, importance_weight=0.0, **kwargs):
        super().__init__(**kwargs)
        self.k = self.checked_k(k)
        self.importance_weight = non_negative("importance_weight", importance_weight)

    @property
    def num_selected(self):
        return self.k  # on average

    def build(self, input_shape):
        super().build(input_shape)
        initializer = keras.initializers.Constant(-math.log(self.num_experts))
        self.add_own_weight("log_thresholds", (*self.stack, self.num_experts), initializer)

    @property
    def thresholds(self):
        """T of eq 19: `[E]`, or `[G, E]` for G gates at once."""
        return tf.exp(tf.convert_to_tensor(self.log_thresholds))

    def route(self, inputs, training=False, groups=None):
        probability = tf.nn.softmax(self.logits("gate_kernel", inputs, groups))
        if training:
            return self._best(probability, groups)
        return self._over_thresholds(probability, groups)

    def _over_thresholds(self, probability, groups):
        thresholds, first_expert, num_experts = self.thresholds, 0, self.num_experts
        if groups is not None:
            of_rows = groups.of_rows()
            thresholds = tf.gather(thresholds, of_rows)
            first_expert = of_rows * self.num_experts
            num_experts *= groups.sizes.shape[0]
        mask = probability > thresholds
        if self.num_experts == 1:  # its probability is 1, which is over no threshold of 1
            mask = tf.ones_like(mask)
        assignments = renormalize_weights(assign_mask(mask, probability, first_expert, num_experts))
        return self.routing(assignments, groups, routed=tf.reduce_any(mask, axis=1))

    def _best(self, probability, groups):
        taken = best_tokens(probability, self.k, groups)
        of_taken = tf.stop_gradient(taken.weights)
        probability = tf.stop_gradient(probability)
        # exp(log T), with 1 for its derivative.
        log_thresholds = tf.convert_to_tensor(self.log_thresholds)
        thresholds = log_thresholds + tf.stop_gradient(tf.exp(log_thresholds) - log_thresholds)
        of_rows = thresholds if groups is None else tf.gather(thresholds, groups.of_rows())
        excess = probability - of_rows
        of_expert = tf.gather(tf.reshape(thresholds, [-1]), taken.experts())
        of_taken -= tf.ensure_shape(of_expert, of_taken.shape)
        routing = self.routing(
            renormalize_weights(taken),
            groups,
            routed=tf.reduce_any(excess > 0, axis=1),
            over_thresholds=tf.math.count_nonzero(excess > 0, axis=1),
            excess=tf.reduce_sum(tf.nn.relu(excess), axis=1),
        )

        def of_gates(values):
            """`[A]` to `[]`, or to `[G]` for G gates at once."""
            load = routing.sums["load"]
            values = tf.cast(values, load.dtype)
            if groups is None:
                return tf.reduce_sum(values)
            by_expert = taken.sum_by_expert(values)
            return tf.reduce_sum(tf.reshape(by_expert, tf.shape(load)), axis=-1)

        routing.sums["excess"] -= of_gates(of_taken)
        routing.sums["over_and_taken"] = of_gates(of_taken > 0)
        return routing

    def loss(self, sums):
        importance = weighted_losses(sums, (self.importance_weight, importance_loss))
        return add_losses(importance, self.loss_as_level(sums))

    def loss_as_level(self, sums):
        """`L_batchwise` (eq 20): `Σ (M_threshold - M_batchwise)·(G_σ - T)`, per token. The
        threshold mask times `G_σ - T` is `relu(G_σ - T)`.
        """
        return tf.math.divide_no_nan(*(tf.reduce_sum(sums[name]) for name in ("excess", "tokens")))

    def measures(self, sums):
        total = {name: tf.reduce_sum(values) for name, values in sums.items()}
        total["unrouted"] = total["tokens"] - total["routed"]

        def ratio(name, of):
            return tf.math.divide_no_nan(total[name], total[of])

        found = {"unrouted": ratio("unrouted", "tokens")}
        if "over_thresholds" not in sums:
            return {**found, "experts_per_token": ratio("load", "tokens")}
        return {
            **found,
            "experts_per_token": ratio("over_thresholds", "tokens"),
            "threshold_precision": ratio("over_and_taken", "over_thresholds"),
            "threshold_recall": ratio("over_and_taken", "load"),
        }

    def get_config(self):
        own = {"k": self.k, "importance_weight": self.importance_weight}
        return {**super().get_config(), **own}
