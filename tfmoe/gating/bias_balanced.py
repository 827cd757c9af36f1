"""The gate of DeepSeek-V3: a bias balances the experts, without a loss.

Axes: T tokens, E experts, K experts per token, G groups of a hierarchical mixture, N expert groups.
"""

from typing import Literal

import keras
import tensorflow as tf

from tfmoe.gating.learned_gate import LearnedGate, warn_of_constant_weights
from tfmoe.gating.micro_step import WHOLE_STEP
from tfmoe.gating.routing import rows_of
from tfmoe.ops.arguments import boolean, non_negative, one_of, positive, positive_number
from tfmoe.ops.balancing import (
    sequence_balance,
    sequence_balance_loss,
    weighted_losses,
    z_loss,
)
from tfmoe.ops.routing import SCORES, gate_values


@keras.saving.register_keras_serializable("tfmoe")
class BiasBalanced(LearnedGate):
    """Top-k gating whose load a bias balances, not a loss (Wang et al. 2024; DeepSeek-V3).

    With scores `s = sigmoid(x·W_g)`, a token selects the k experts with the highest `s_i + b_i`.
    Their weights are `scale · s_i / Σ_selected s_j`: the bias decides which experts are selected,
    and is in no weight. After each training step, on the global batch, without a gradient:

    `b_i ← b_i + γ·sign(mean load - load_i)`.

    So an expert with too many tokens becomes a little harder to select. The bias is stored in
    checkpoints and files, and is used outside of training too.

    Paper: this gate is not in Shazeer et al. 2017. It reaches what their load loss is for, an equal
    load, without a second gradient. `Batchwise` makes the load equal in every batch, and a token
    then has k experts on average; here a token has exactly k, and the load is equal over time.

    If an optimizer accumulates gradients (`gradient_accumulation_steps`), the loads of all batches
    of a step are added, and the bias changes once, with the last batch. Each training step must
    call the layer once; `tf.recompute_grad` and `keras.RematScope` around it raise an error. The
    option `recompute` of `MoE` does not compute the gate again.

    With `expert_groups` a token first selects `groups_per_token` groups of experts, by the sum of
    the `best_per_group` highest `s_i + b_i` in each, then its k experts within these groups. (One
    gate decides both: it is not the hierarchical mixture of App. B.)

    The sequence-wise balance loss is `sequence_weight · Σ_i f_i P_i`, the mean over the sequences,
    with `f_i = E/(k·T)·Σ_t 1[t selects i]` and `P_i = (1/T)·Σ_t s_ti/Σ_j s_tj` over the T tokens of
    a sequence. Inputs `[T, D]` are one sequence.

    Args:
        k: number of experts per token, 1 <= k <= num_experts. With k = 1 use `renormalize=False`:
            otherwise the gate value is a constant, the task does not train the gate, and a warning
            is issued.
        score: `"sigmoid"`, or `"softmax"` for the scores `softmax(x·W_g)` of DeepSeek-V2.
        renormalize: whether weights are divided by their sum over the selected experts. DeepSeek-V2
            does not.
        scale: factor of all weights (DeepSeek-V3: 2.5).
        bias_step: γ, at least 0 (DeepSeek-V3: 0.001, and 0 at the end of training).
        center_bias: whether the mean of each change is subtracted from it, so that the mean of the
            bias stays 0. It selects the same experts, and the bias cannot drift.
        expert_groups: N, a divisor of num_experts; `None` for no groups.
        groups_per_token: the number of groups from which a token selects, at most N.
        best_per_group: the number of experts whose sum is the score of a group (DeepSeek-V3: 2,
            DeepSeek-V2: 1).
        sequence_weight: weight of the sequence-wise balance loss (DeepSeek-V3: 0.0001). The inner
            level of a hierarchical mixture has no sequences, so it must be 0 there.

    Raises:
        ValueError: an argument is out of range, or the selected groups have fewer than k experts.

    Example:
        >>> gate = BiasBalanced(k=4, scale=2.5)
        >>> moe = MoE(num_experts=32, hidden_units=512, gate=gate)
    """

    KEPT_PER_LOGIT = 2  # the scores, and their shares of the sum
    estimates_load = False

    def __init__(
        self,
        k: int = 4,
        score: Literal["sigmoid", "softmax"] = "sigmoid",
        renormalize: bool = True,
        scale: float = 1.0,
        bias_step: float = 0.001,
        center_bias: bool = True,
        expert_groups: int | None = None,
        groups_per_token: int = 1,
        best_per_group: int = 2,
        sequence_weight: float = 0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.k = self.checked_k(k)
        self.score = one_of("score", score, SCORES)
        self.renormalize = boolean("renormalize", renormalize)
        self.scale = positive_number("scale", scale)
        self.bias_step = non_negative("bias_step", bias_step)
        self.center_bias = boolean("center_bias", center_bias)
        self.expert_groups = expert_groups
        self.groups_per_token = positive("groups_per_token", groups_per_token)
        self.best_per_group = positive("best_per_group", best_per_group)
        self.sequence_weight = non_negative("sequence_weight", sequence_weight)
        if expert_groups is not None:
            positive("expert_groups", expert_groups)
            self._check_expert_groups()

    def _check_expert_groups(self):
        if self.groups_per_token > self.expert_groups:
            raise ValueError(
                f"groups_per_token must be at most expert_groups={self.expert_groups}, got "
                f"groups_per_token={self.groups_per_token}"
            )
        if self.num_experts is None:
            return
        if self.num_experts % self.expert_groups:
            raise ValueError(
                f"expert_groups must divide {self.num_experts}, the number of experts, got "
                f"expert_groups={self.expert_groups}"
            )
        size = self.num_experts // self.expert_groups
        if self.k > self.groups_per_token * size:
            raise ValueError(
                f"k must be at most {self.groups_per_token * size}, the number of experts in "
                f"groups_per_token={self.groups_per_token} groups, got k={self.k}"
            )

    @property
    def num_selected(self) -> int:
        return self.k

    @property
    def needs_sequences(self) -> bool:  # type: ignore[override]
        return self.sequence_weight > 0

    def build(self, input_shape):
        warn_of_constant_weights(self)
        super().build(input_shape)
        self.add_updated_weight("bias", (*self.stack, self.num_experts))
        # The load of the batches of an optimizer step.
        self.add_updated_weight("step_load", (*self.stack, self.num_experts))

    def route(self, inputs, training=False, groups=None, sequences=None):
        inputs = self.features(inputs, training, groups)
        logits = self.logits("gate_kernel", inputs, groups)
        scores = SCORES[self.score](logits)
        biased = tf.stop_gradient(scores) + rows_of(self.bias, groups)
        biased = self._within_best_groups(biased)
        experts = tf.math.top_k(biased, self.k).indices
        weights = self.scale * gate_values(scores, experts, self.renormalize)
        routing = self.routing_of_tokens(experts, weights, groups, **self.sums_of_logits(logits))
        if self.sequence_weight:
            balance = sequence_balance(experts, scores, sequences)
            routing.sums.update(
                {name: tf.cast(value, routing.load.dtype) for name, value in balance.items()}
            )
        return routing

    def _within_best_groups(self, biased):
        """Sets the experts outside of a token's best expert groups to -∞; `[T, E]`."""
        if self.expert_groups is None:
            return biased
        size = self.num_experts // self.expert_groups
        by_group = tf.reshape(biased, [-1, self.expert_groups, size])
        best = tf.math.top_k(by_group, min(self.best_per_group, size)).values
        best_groups = tf.math.top_k(tf.reduce_sum(best, axis=-1), self.groups_per_token).indices
        kept = tf.reduce_any(tf.one_hot(best_groups, self.expert_groups, True, False), axis=1)
        kept = tf.repeat(kept, size, axis=1)
        return tf.where(kept, biased, biased.dtype.min)

    def loss(self, sums):
        return weighted_losses(
            sums,
            (self.sequence_weight, sequence_balance_loss),
            (self.z_loss_weight, z_loss),
        )

    def update(self, sums, micro_step=WHOLE_STEP):
        earlier = tf.convert_to_tensor(self.step_load)
        load = tf.cast(sums["load"], earlier.dtype)
        load += tf.where(micro_step.is_first, tf.zeros_like(earlier), earlier)
        self.assign_weight("step_load", load)
        # The sign of E·(mean load - load), without rounding.
        too_low = tf.reduce_sum(load, axis=-1, keepdims=True) - self.num_experts * load
        change = self.bias_step * tf.sign(too_low)
        if self.center_bias:
            change -= tf.reduce_mean(change, axis=-1, keepdims=True)
        self.add_to_weight("bias", tf.where(micro_step.is_last, change, tf.zeros_like(change)))

    def get_config(self):
        return {
            **super().get_config(),
            "k": self.k,
            "score": self.score,
            "renormalize": self.renormalize,
            "scale": self.scale,
            "bias_step": self.bias_step,
            "center_bias": self.center_bias,
            "expert_groups": self.expert_groups,
            "groups_per_token": self.groups_per_token,
            "best_per_group": self.best_per_group,
            "sequence_weight": self.sequence_weight,
        }
