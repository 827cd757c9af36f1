"""Strictly balanced gating (App. F): in training every expert takes the same number of tokens.

Axes: T tokens, E experts, D model, G groups, A assignments.
"""

import math

import keras
import tensorflow as tf

from tfmoe.distribute.best_tokens import best_tokens
from tfmoe.gating.learned_gate import LearnedGate
from tfmoe.gating.routing import are_grouped, rows_of
from tfmoe.gating.thresholds import assign_over_thresholds
from tfmoe.ops.arguments import non_negative
from tfmoe.ops.assignments import renormalize_weights
from tfmoe.ops.balancing import add_losses, importance_loss, weighted_losses, z_loss


@keras.saving.register_keras_serializable("tfmoe")
class Batchwise(LearnedGate):
    """Batchwise gating: in training every expert takes the same number of tokens (App. F).

    `G(x)_i = G_σ(x)_i·M_i / Σ_j G_σ(x)_j·M_j` with `G_σ = softmax(x·W_g)` (eq 15-16).

    In training M is the batchwise mask (eq 18): every expert takes its `m = ⌈k·T/E⌉` most probable
    tokens of the global batch, the earlier token in a tie. (Identical tokens can have probabilities
    that differ in the last bit: the rounding of a matrix product depends on the position of the
    row.) A token has k experts on average. The output for a token without an expert is 0.

    At inference M is the threshold mask (eq 19): `M_i = 1 if G_σ(x)_i > T_i`. The output for a
    token then does not depend on the rest of its batch. The thresholds are trained by `L_batchwise`
    (eq 20) only, and this loss trains nothing else.

    Paper: `m = k·|X|/n`; a remainder is not mentioned. Here m is rounded up, so that every expert
    takes at least one token of every batch, and a token has slightly more than k experts on
    average.

    Paper: `L_batchwise` is introduced to learn the thresholds. Its formula contains G_σ too, and
    the paper does not say whether it trains `W_g`. Here G_σ is a constant in this loss: `W_g` is
    trained by the task and the importance loss only.

    Paper: `L_batchwise` is a sum over the batch. Here it is the mean over the tokens (in a
    secondary gate, over the tokens of its groups), so that its gradient, which is part of a clipped
    global norm, does not grow with the batch. The variable is log T: the values of G_σ are of the
    order 1/E, too small for the steps of an optimizer. It is updated with the gradient with respect
    to T, which is m minus the number of tokens over the threshold. Thresholds start at 1/E. `W_g`
    starts at small random values: with zeros all experts would take the same tokens.

    Args:
        k: mean number of experts per token, 1 <= k <= num_experts.
        importance_weight: weight of the importance loss `CV(Importance(X))²` (w_importance of
            eq 7), which equalizes the sums of the gate values. There is no load loss: the load is
            equal by construction.

    Metrics of the mixture. In training: `threshold_precision`, the fraction of the threshold mask
    that is in the batchwise mask, and `threshold_recall`, the fraction of the batchwise mask that
    is in the threshold mask. In evaluation, and in training of a flat mixture: `experts_per_token`
    and `unrouted` (fraction of tokens without an expert), both with the threshold mask.

    Raises:
        ValueError: k is out of range.

    Example:
        >>> moe = MoE(num_experts=32, hidden_units=2048, gate=Batchwise(k=4))
    """

    RETIRED = ("load_weight",)
    KEPT_PER_LOGIT = 2  # G_σ, and its excess over the thresholds (eq 20)
    METRICS = ("threshold_precision", "threshold_recall", "experts_per_token", "unrouted")
    estimates_load = False

    def __init__(self, k: int = 4, importance_weight: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.k = self.checked_k(k)
        self.importance_weight = non_negative("importance_weight", importance_weight)

    @property
    def num_selected(self) -> int:
        return self.k  # on average

    def build(self, input_shape):
        super().build(input_shape)
        initializer = keras.initializers.Constant(-math.log(self.num_experts))
        self.add_own_weight("log_thresholds", (*self.stack, self.num_experts), initializer)

    @property
    def thresholds(self) -> tf.Tensor:
        """T of eq 19: `[E]`, or `[G, E]` for G gates at once."""
        return tf.exp(tf.convert_to_tensor(self.log_thresholds))

    def route(self, inputs, training=False, groups=None):
        inputs = self.features(inputs, training, groups)
        logits = self.logits("gate_kernel", inputs, groups)
        if training:
            return self._route_by_batch(logits, groups)
        return self._route_by_thresholds(tf.nn.softmax(logits), groups)

    def _route_by_thresholds(self, probability, groups):
        assignments, routed = assign_over_thresholds(probability, self.thresholds, groups)
        return self.routing(renormalize_weights(assignments), groups, routed=routed)

    def _route_by_batch(self, logits, groups):
        probability = tf.nn.softmax(logits)
        taken = best_tokens(probability, self.k, groups)
        probability = tf.stop_gradient(probability)
        # exp(log T), with 1 for its derivative.
        log_thresholds = tf.convert_to_tensor(self.log_thresholds)
        thresholds = log_thresholds + tf.stop_gradient(tf.exp(log_thresholds) - log_thresholds)
        excess = probability - rows_of(thresholds, groups)  # [T, E]
        taken_excess = tf.stop_gradient(taken.weights)  # [A]
        experts = tf.minimum(taken.all_experts(), taken.counts.shape[0] - 1)
        taken_excess -= tf.gather(tf.reshape(thresholds, [-1]), experts)
        if taken.is_static:
            taken_excess = tf.where(taken.is_kept(), taken_excess, 0)
        routing = self.routing(
            renormalize_weights(taken),
            groups,
            routed=tf.reduce_any(excess > 0, axis=1),
            over_thresholds=tf.math.count_nonzero(excess > 0, axis=1),
            excess=tf.reduce_sum(tf.nn.relu(excess), axis=1),
            **self.sums_of_logits(logits),
        )

        def sum_by_gate(values):
            """Sums `[A]` to `[]`, or to `[G]` for G gates at once."""
            load = routing.sums["load"]
            values = tf.cast(values, load.dtype)
            if not are_grouped(groups):
                return tf.reduce_sum(values)
            by_expert = taken.sum_by_expert(values)
            return tf.reduce_sum(tf.reshape(by_expert, tf.shape(load)), axis=-1)

        routing.sums["excess"] -= sum_by_gate(taken_excess)
        routing.sums["over_and_taken"] = sum_by_gate(taken_excess > 0)
        return routing

    def loss(self, sums):
        importance = weighted_losses(sums, (self.importance_weight, importance_loss))
        return add_losses(importance, self.loss_as_level(sums))

    def loss_as_level(self, sums):
        """`L_batchwise` (eq 20): `Σ (M_threshold - M_batchwise)·(G_σ - T)`, per token; and the
        z-loss.

        The threshold mask times `G_σ - T` is `relu(G_σ - T)`.

        Args:
            sums: the sums over the global batch.
        """
        excess, tokens = (tf.reduce_sum(sums[name]) for name in ("excess", "tokens"))
        level_z_loss = weighted_losses(sums, (self.z_loss_weight, z_loss))
        if level_z_loss is not None:
            level_z_loss = tf.reduce_mean(level_z_loss)  # over the groups, if any
        return add_losses(tf.math.divide_no_nan(excess, tokens), level_z_loss)

    def measures(self, sums):
        total = {name: tf.reduce_sum(values) for name, values in sums.items()}
        total["unrouted"] = total["tokens"] - total["routed"]

        def ratio(numerator, denominator):
            return tf.math.divide_no_nan(total[numerator], total[denominator])

        metrics = {"unrouted": ratio("unrouted", "tokens")}
        if "over_thresholds" not in sums:
            return {**metrics, "experts_per_token": ratio("load", "tokens")}
        return {
            **metrics,
            "experts_per_token": ratio("over_thresholds", "tokens"),
            "threshold_precision": ratio("over_and_taken", "over_thresholds"),
            "threshold_recall": ratio("over_and_taken", "load"),
        }

    def get_config(self):
        config = {"k": self.k, "importance_weight": self.importance_weight}
        return {**super().get_config(), **config}
