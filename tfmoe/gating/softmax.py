"""The dense softmax gate (eq 2)."""

import keras
import tensorflow as tf

from tfmoe.gating.learned_gate import LearnedGate
from tfmoe.ops.arguments import non_negative
from tfmoe.ops.balancing import importance_loss, weighted_losses, z_loss


@keras.saving.register_keras_serializable("tfmoe")
class Softmax(LearnedGate):
    """Softmax gating: every token goes to every expert (eq 2).

    `G_σ(x) = softmax(x·W_g)`.

    This is the classical, dense mixture of experts. Each token costs n experts, so use it with few
    experts, or as a reference for sparse gates. `W_g` starts at zero: all experts start with the
    weight 1/n.

    Args:
        importance_weight: weight of the importance loss `CV(Importance(X))²` (w_importance of
            eq 7), which equalizes the sums of the gate values. There is no load loss: every expert
            receives every token.

    Example:
        >>> moe = MoE(num_experts=4, hidden_units=64, gate=Softmax())
    """

    RETIRED = ("load_weight",)
    estimates_load = False

    def __init__(self, importance_weight: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.importance_weight = non_negative("importance_weight", importance_weight)

    @property
    def num_selected(self) -> int:
        return self.num_experts

    def kernel_initializer(self):
        return keras.initializers.Zeros()

    def route(self, inputs, training=False, groups=None):
        inputs = self.features(inputs, training, groups)
        logits = self.logits("gate_kernel", inputs, groups)
        experts = tf.broadcast_to(tf.range(self.num_experts), tf.shape(logits))
        weights = tf.nn.softmax(logits)
        return self.routing_of_tokens(experts, weights, groups, **self.sums_of_logits(logits))

    def loss(self, sums):
        return weighted_losses(
            sums, (self.importance_weight, importance_loss), (self.z_loss_weight, z_loss)
        )

    def loss_as_level(self, sums):
        return weighted_losses(sums, (self.z_loss_weight, z_loss))

    def get_config(self):
        return {**super().get_config(), "importance_weight": self.importance_weight}
