"""The Switch gate (Fedus et al. 2021): one expert per token, weighted by its probability."""

import keras
import tensorflow as tf

from tfmoe.gating.limited_gate import LimitedGate
from tfmoe.ops.arguments import non_negative
from tfmoe.ops.balancing import (
    cv_squared,
    importance_loss,
    load_balance_loss,
    weighted_losses,
    z_loss,
)


@keras.saving.register_keras_serializable("tfmoe")
class Switch(LimitedGate):
    """Switch gating: each token goes to its most probable expert (Fedus et al. 2021).

    `G(x)_i = softmax(x·W_g)_i` for the most probable expert, 0 for the others.

    Paper: this gate is not in Shazeer et al. 2017, where k = 1 gives the gate no gradient from the
    task. Here the weight is the probability before the selection, which has a gradient.

    The balancing loss is that of the Switch Transformer, `balance_weight · n · Σ_i f_i p_i`: f_i is
    the fraction of the tokens of the global batch that go to expert i, p_i its mean probability. At
    the inner level of a hierarchical mixture it is the mean over the groups.

    The settings of the Switch Transformer: `jitter=0.01`, `capacity_factor=1.25` (also 1.0 and 2.0)
    and `evaluation_capacity_factor=2.0`. By default no token is dropped.

    Args:
        balance_weight: weight of the balancing loss, α, at least 0 (Fedus et al.: 0.01).
        importance_weight: weight of the importance loss (w_importance of eq 7), usually 0 here.
        load_weight: weight of `CV²` of the summed probabilities, usually 0 here.

    Raises:
        ValueError: a weight is negative.

    Example:
        >>> moe = MoE(num_experts=16, hidden_units=256, gate=Switch())
    """

    num_selected = 1
    estimates_load = False

    def __init__(
        self,
        balance_weight: float = 0.01,
        importance_weight: float = 0.0,
        load_weight: float = 0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.balance_weight = non_negative("balance_weight", balance_weight)
        self.importance_weight = non_negative("importance_weight", importance_weight)
        self.load_weight = non_negative("load_weight", load_weight)

    def route(self, inputs, training=False, groups=None):
        inputs = self.features(inputs, training, groups)
        logits = self.logits("gate_kernel", inputs, groups)
        probability = tf.nn.softmax(logits)
        weights, experts = tf.math.top_k(probability, 1)
        return self.routing_of_tokens(
            experts, weights, groups, probability=probability, **self.sums_of_logits(logits)
        )

    def loss(self, sums):
        return weighted_losses(
            sums,
            (self.balance_weight, load_balance_loss),
            (self.importance_weight, importance_loss),
            (self.load_weight, lambda sums: cv_squared(sums["probability"])),
            (self.z_loss_weight, z_loss),
        )

    def loss_as_level(self, sums):
        return weighted_losses(
            sums, (self.balance_weight, load_balance_loss), (self.z_loss_weight, z_loss)
        )

    def get_config(self):
        return {
            **super().get_config(),
            "balance_weight": self.balance_weight,
            "importance_weight": self.importance_weight,
            "load_weight": self.load_weight,
        }
