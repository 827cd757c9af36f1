"""gpt-oss (OpenAI 2025).

Axes: B batch, S steps, E experts, H hidden.
"""

import tensorflow as tf

from tfmoe.distribute.tensorflow_internals import training_of_call
from tfmoe.keras_hub.block import SparseMixture, at_steps
from tfmoe.keras_hub.experts import BankExperts
from tfmoe.keras_hub.gates import RouterOutputs, ScoreGate


class SparseGptOssExperts(BankExperts):
    """The experts of a gpt-oss block: with biases; gate and up are the even and odd columns of one
    stack `[E, D, 2H]`, and are clipped.
    """

    def kernels(self):
        return [self.gate_up_proj, self.down_proj]

    def output_bias(self):
        return self.down_proj_bias

    def hidden(self, rows, counts, is_static):
        bias = self.gate_up_proj_bias
        sums = self.product(rows, counts, is_static, self.gate_up_proj, bias)
        return clipped_glu(sums, self.alpha, self.limit)


class SparseGptOss(SparseMixture):
    """A gpt-oss block. It has no balancing loss."""

    replaces = "keras_hub.src.models.gpt_oss.gpt_oss_decoder.GptOssSparseMoeBlock"
    builds_bank = "keras_hub.src.models.gpt_oss.gpt_oss_decoder.GptOssExperts"
    bank_class = SparseGptOssExperts

    def parts(self, parent):
        return {"gate": ScoreGate(self.top_k, num_experts=self.num_experts)}

    def bank(self):
        return self.experts

    def call(self, hidden_states):
        training = training_of_call(self)
        tokens = tf.reshape(hidden_states, [-1, hidden_states.shape[-1]])
        scores = self.router(tokens)
        outputs = self.mixed(tokens, RouterOutputs(scores), hidden_states, training)
        return at_steps(outputs, hidden_states), scores


def clipped_glu(sums, alpha, limit):
    """The activation of gpt-oss: `(up + 1) · gate · sigmoid(alpha · gate)`, with `gate <= limit`
    and `-limit <= up <= limit`.

    Args:
        sums: `[A, 2H]`, gate and up in even and odd columns.
        alpha: factor in the sigmoid.
        limit: bound of gate and up.

    Returns:
        `[A, H]`.
    """
    gate, up = tf.unstack(tf.reshape(sums, [-1, sums.shape[-1] // 2, 2]), axis=-1)
    gate = tf.minimum(gate, tf.cast(limit, sums.dtype))
    up = tf.clip_by_value(up, -limit, limit)
    return (up + 1) * (gate * tf.sigmoid(gate * alpha))
