"""The dense softmax gate (eq 2)."""

import keras
import tensorflow as tf

from tfmoe.gating.gate import Gate
from tfmoe.ops.arguments import non_negative
from tfmoe.ops.balancing import importance_loss, weighted_losses


@keras.saving.register_keras_serializable("tfmoe")
class Softmax(Gate):
    """`G_σ(x) = softmax(x·W_g)`: every token goes to every expert (eq 2).

    The classical mixture of experts, at the cost of n experts per token; for small n and for
    comparison. `W_g` starts at zero, so all experts begin with the weight 1/n.

    Args:
        importance_weight: w_importance of eq 7. There is no loss of the load, which is always even.

    Example:
        >>> moe = MoE(num_experts=4, hidden_units=64, gate=Softmax())
    """

    RETIRED = ("load_weight",)

    def __init__(self, importance_weight=0.0, **kwargs):
        super().__init__(**kwargs)
        self.importance_weight = non_negative("importance_weight", importance_weight)

    @property
    def num_selected(self):
        return self.num_experts

    def kernel_initializer(self):
        return keras.initializers.Zeros()

    def route(self, inputs, training=False, groups=None):
        weights = tf.nn.softmax(self.logits("gate_kernel", inputs, groups))
        experts = tf.broadcast_to(tf.range(self.num_experts), tf.shape(weights))
        return self.routing_of_tokens(experts, weights, groups)

    def loss(self, sums):
        return weighted_losses(sums, (self.importance_weight, importance_loss))

    def loss_as_level(self, sums):
        return None

    def get_config(self):
        return {**super().get_config(), "importance_weight": self.importance_weight}
