"""Quantile balancing: a bias for each expert, computed from the last batch.

Axes: T tokens, E experts, K experts per token, G groups of a hierarchical mixture.
"""

from typing import Literal

import keras
import tensorflow as tf

from tfmoe.distribute.best_tokens import lowest_taken
from tfmoe.gating.learned_gate import LearnedGate, warn_of_constant_weights
from tfmoe.gating.micro_step import WHOLE_STEP
from tfmoe.gating.quantiles import mean_quantile, quantile_sums
from tfmoe.gating.routing import rows_of
from tfmoe.ops.arguments import boolean, fraction, one_of, positive_number
from tfmoe.ops.balancing import weighted_losses, z_loss
from tfmoe.ops.routing import SCORES, gate_values


@keras.saving.register_keras_serializable("tfmoe")
class QuantileBalanced(LearnedGate):
    """Quantile balancing: top-k gating with a bias that would have balanced the last batch
    (Megatron-Core 0.19).

    With the logits `s = x·W_g`, a token selects the k experts with the highest `s_i - β_i`. Their
    weights are those of `score` of the logits without β. After each training batch, without a
    gradient, from the global batch of T tokens:

    `α_t` = the (k+1)-th highest of `s_ti - β_i` over the experts;
    `β_i ← ema·β_i + (1 - ema)·q_i`, `q_i` = the (k·T/E + 1)-th highest of `s_ti - α_t` over the
    tokens.

    An expert with the bias `q_i` takes k·T/E of these tokens if the others keep their α_t: one step
    to an equal load. A token has exactly k experts, and there is no loss.

    Paper: this gate is not in Shazeer et al. 2017. `Batchwise` (App. F) gives each expert the same
    number of tokens in every batch, by a quantile of that batch; here the quantile comes from
    earlier batches, so the load is equal only as far as batches are alike, and the experts of a
    token do not depend on the rest of its batch. `BiasBalanced` moves its bias by a fixed step.

    If k·T/E is not an integer, it is rounded up; the published code does not allow it. With k = E
    there is nothing to balance, and β stays 0. If an optimizer accumulates gradients, β changes
    with each batch of a step. In a `MoELSTM` whose gate sees the state, q_i is the mean over the
    time steps.

    Args:
        k: number of experts per token, 1 <= k <= num_experts. With k = 1 use `renormalize=False`:
            otherwise the gate value is a constant, the task does not train the gate, and a warning
            is issued.
        ema: the share of β that each batch keeps, at least 0 and below 1.
        score: `"softmax"` or `"sigmoid"`, the function of the logits that gives the weights.
        renormalize: whether weights are divided by their sum over the selected experts.
        scale: factor of all weights.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> moe = MoE(num_experts=16, hidden_units=256, gate=QuantileBalanced(k=2))
    """

    KEPT_PER_LOGIT = 1  # the scores
    estimates_load = False

    def __init__(
        self,
        k: int = 4,
        ema: float = 0.0,
        score: Literal["softmax", "sigmoid"] = "softmax",
        renormalize: bool = True,
        scale: float = 1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.k = self.checked_k(k)
        self.ema = fraction("ema", ema)
        self.score = one_of("score", score, SCORES)
        self.renormalize = boolean("renormalize", renormalize)
        self.scale = positive_number("scale", scale)

    @property
    def num_selected(self) -> int:
        return self.k

    def build(self, input_shape):
        warn_of_constant_weights(self)
        super().build(input_shape)
        self.add_updated_weight("bias", (*self.stack, self.num_experts))

    def route(self, inputs, training=False, groups=None):
        inputs = self.features(inputs, training, groups)
        logits = self.logits("gate_kernel", inputs, groups)
        fixed = tf.stop_gradient(logits)
        measures_batch = training and self.k < self.num_experts
        best = tf.math.top_k(fixed - rows_of(self.bias, groups), self.k + measures_batch)
        experts = best.indices[:, : self.k]
        weights = self.scale * gate_values(SCORES[self.score](logits), experts, self.renormalize)
        routing = self.routing_of_tokens(experts, weights, groups, **self.sums_of_logits(logits))
        if measures_batch:
            quantile = lowest_taken(fixed - best.values[:, self.k :], self.k, groups, extra=1)
            routing.sums.update(quantile_sums(quantile, groups, routing.load.dtype))
        return routing

    def loss(self, sums):
        return weighted_losses(sums, (self.z_loss_weight, z_loss))

    def update(self, sums, micro_step=WHOLE_STEP):
        if "quantile" not in sums:
            return
        bias = tf.convert_to_tensor(self.bias)
        change = (1 - self.ema) * (tf.cast(mean_quantile(sums), bias.dtype) - bias)
        self.add_to_weight("bias", tf.where(sums["num_quantiles"] > 0, change, 0))

    def get_config(self):
        return {
            **super().get_config(),
            "k": self.k,
            "ema": self.ema,
            "score": self.score,
            "renormalize": self.renormalize,
            "scale": self.scale,
        }
