"""The dense softmax gate (eq 2)."""

import keras
import tensorflow as tf

from tfmoe.gating.base import Gate, Selection


@keras.saving.register_keras_serializable("tfmoe")
class Softmax(Gate):
    """`G_σ(x) = softmax(x·W_g)`: every token goes to every expert (eq 2).

    The classical mixture of experts, at the cost of n experts per token; for small n and for
    comparison. `W_g` starts at zero, so all experts begin with the weight 1/n.

    Args:
        importance_weight: w_importance of eq 7.

    Example:
        >>> moe = tfmoe.layers.MoE(num_experts=4, hidden_units=64, gate=Softmax())
    """

    kernel_names = ("gate_kernel",)

    def __init__(self, importance_weight=0.0, **kwargs):
        super().__init__(importance_weight=importance_weight, **kwargs)

    @property
    def num_selected(self):
        return self.num_experts

    def select(self, inputs, training=False, group_sizes=None):
        gates = tf.nn.softmax(self.logits("gate_kernel", inputs, group_sizes))
        experts = tf.broadcast_to(tf.range(self.num_experts), tf.shape(gates))
        return Selection(experts, gates)
