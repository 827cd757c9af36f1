"""The plain top-k gate of today's decoders, with the variants of its weights."""

from typing import Literal

import keras
import tensorflow as tf

from tfmoe.gating.learned_gate import LearnedGate, warn_of_constant_weights
from tfmoe.gating.routing import rows_of
from tfmoe.ops.arguments import boolean, non_negative, one_of, positive_number
from tfmoe.ops.balancing import load_balance_loss, weighted_losses, z_loss
from tfmoe.ops.routing import SCORES, gate_values, normalized


@keras.saving.register_keras_serializable("tfmoe")
class TopK(LearnedGate):
    """Top-k gating without noise: each token goes to the k experts with the highest logits.

    With the scores `s = softmax(x·W_g + b)` or `s = sigmoid(x·W_g + b)`, and S the k experts with
    the highest logits:

    `G(x)_i = scale · s_i / Σ_{j in S} s_j` with `renormalize`, else `G(x)_i = scale · s_i`, for i
    in S; 0 for the others.

    With softmax scores and `renormalize` this is the softmax over the k highest logits (Jiang et
    al. 2024, Mixtral). `W_g` starts at small random values, b at 0.

    The balancing loss is `balance_weight · (n/k) · Σ_i f_i p_i` (Fedus et al. 2021, for k experts):
    f_i is the fraction of the tokens of the global batch that go to expert i, so `Σ f_i = k`, and
    p_i is its mean score after a division by the token's sum of scores. At exact balance the value
    is `balance_weight`, for every k and n. Implementations differ: where f_i is not divided by k
    (Transformers 5: `router_aux_loss_coef`), multiply their weight by k for the value to use here.
    At the inner level of a hierarchical mixture it is the mean over the groups.

    Args:
        k: number of experts per token, 1 <= k <= num_experts. With k = 1 use `renormalize=False`:
            otherwise the gate value is a constant, the task does not train the gate, and a warning
            is issued.
        score: `"softmax"` or `"sigmoid"`, the function of the logits.
        renormalize: whether the weights of a token are divided by their sum.
        scale: the factor of all weights (the routed scaling factor of DeepSeek-AI 2024).
        use_bias: whether the logits have a bias b.
        balance_weight: weight of the balancing loss, at least 0.

    Raises:
        ValueError: an argument is out of range, or k > num_experts.

    Example:
        >>> mixtral = TopK(k=2)
        >>> olmoe = TopK(k=8, renormalize=False)
        >>> moe = MoE(num_experts=8, hidden_units=64, gate=mixtral)
    """

    estimates_load = False

    def __init__(
        self,
        k: int = 2,
        score: Literal["softmax", "sigmoid"] = "softmax",
        renormalize: bool = True,
        scale: float = 1.0,
        use_bias: bool = False,
        balance_weight: float = 0.01,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.k = self.checked_k(k)
        self.score = one_of("score", score, SCORES)
        self.renormalize = boolean("renormalize", renormalize)
        self.scale = positive_number("scale", scale)
        self.use_bias = boolean("use_bias", use_bias)
        self.balance_weight = non_negative("balance_weight", balance_weight)

    @property
    def num_selected(self) -> int:
        return self.k

    def build(self, input_shape):
        warn_of_constant_weights(self)
        super().build(input_shape)
        if self.use_bias:
            self.add_own_weight("gate_bias", (*self.stack, self.num_experts), "zeros")

    def route(self, inputs, training=False, groups=None):
        logits = self._logits(self.features(inputs, training, groups), groups)
        scores = SCORES[self.score](logits)
        # Scores can be equal where logits differ: a sigmoid is 1 from 17 on.
        experts = tf.math.top_k(tf.stop_gradient(logits), self.k).indices
        weights = gate_values(scores, experts, self.renormalize)
        probability = scores if self.score == "softmax" else normalized(scores)
        return self.routing_of_tokens(
            experts,
            self.scale * weights,
            groups,
            probability=probability,
            **self.sums_of_logits(logits),
        )

    def _logits(self, features, groups):
        logits = self.logits("gate_kernel", features, groups)
        return logits + rows_of(self.gate_bias, groups) if self.use_bias else logits

    def loss(self, sums):
        return weighted_losses(
            sums, (self.balance_weight / self.k, load_balance_loss), (self.z_loss_weight, z_loss)
        )

    def get_config(self):
        return {
            **super().get_config(),
            "k": self.k,
            "score": self.score,
            "renormalize": self.renormalize,
            "scale": self.scale,
            "use_bias": self.use_bias,
            "balance_weight": self.balance_weight,
        }
