"""The Switch gate (Fedus et al. 2021): one expert per token, weighted by its probability."""

import keras
import tensorflow as tf

from tfmoe.gating.base import Gate, Selection, small_random
from tfmoe.ops import balancing
from tfmoe.ops.arguments import non_negative


@keras.saving.register_keras_serializable("tfmoe")
class Switch(Gate):
    """`G(x)_i = softmax(x·W_g)_i` for the most probable expert, 0 for the others.

    Paper: not in Shazeer et al. 2017, where k = 1 leaves the gate without a gradient from the task.
    Here the weight is the probability before the selection, so that it has one. The balancing loss
    is the Switch Transformer's `balance_weight · n · Σ_i f_i p_i`: f_i the share of tokens sent to
    expert i, p_i its mean probability. It is for flat mixtures.

    Args:
        balance_weight: α, at least 0 (Fedus et al.: 0.01).
    """

    kernel_names = ("gate_kernel",)
    num_selected = 1
    can_be_level = False

    def __init__(self, balance_weight=0.01, **kwargs):
        super().__init__(**kwargs)
        self.balance_weight = non_negative("balance_weight", balance_weight)

    def kernel_initializer(self):
        return small_random()

    def select(self, inputs, training=False, group_sizes=None):
        probability = tf.nn.softmax(self.logits("gate_kernel", inputs, group_sizes))
        gates, experts = tf.math.top_k(probability, 1)
        return Selection(experts, gates, probability)

    def balancing_loss(self, routing):
        tokens = tf.cast(tf.shape(routing.experts)[0], routing.load.dtype)
        sent = balancing.count(routing.experts, self.num_experts, routing.load.dtype)
        dot = tf.math.divide_no_nan(tf.reduce_sum(sent * routing.load), tokens * tokens)
        return super().balancing_loss(routing) + self.balance_weight * self.num_experts * dot

    def get_config(self):
        return {**super().get_config(), "balance_weight": self.balance_weight}
