"""Gemma 4 (Google 2026).

Axes: T tokens, A rows, E experts, D model.
"""

import functools

import keras
import tensorflow as tf

from tfmoe.distribute.tensorflow_internals import training_of_call
from tfmoe.keras_hub.block import SparseMixture
from tfmoe.keras_hub.experts import SeparateExperts, in_float32
from tfmoe.keras_hub.gates import RouterOutputs, ScoreGate
from tfmoe.ops.padded_rows import expert_of_rows


class SparseGemma4Experts(SeparateExperts):
    """The experts of a Gemma 4 decoder: each has a learned scale of its output.

    The bank itself is the mixture, so this is an object beside it.

    Args:
        bank: the KerasHub bank.
    """

    def __init__(self, bank):
        super().__init__()
        self.bank = bank
        self.name, self.num_experts = bank.name, bank.num_experts
        self.compute_dtype = bank.compute_dtype

    @property
    def weights(self):
        return self.bank.weights

    def kernels(self):
        return [self.bank.gate_proj, self.bank.up_proj, self.bank.down_proj]

    def hidden_activation(self):
        return in_float32(functools.partial(keras.activations.gelu, approximate=True))

    def compute(self, rows, counts, rows_per_expert=None, training=False, is_static=False):
        outputs = super().compute(rows, counts, rows_per_expert, training, is_static)
        scale = self.value(self.bank.per_expert_scale)
        experts = expert_of_rows(counts, tf.shape(outputs)[0])
        return outputs * tf.gather(tf.pad(scale, [[0, 1]])[:, None], experts)


class SparseGemma4(SparseMixture):
    """The bank of a Gemma 4 decoder, which reads the scores of the decoder's router. It has no
    balancing loss.
    """

    replaces = "keras_hub.src.models.gemma4.gemma4_moe.Gemma4MoEBlock"
    builds_bank = replaces
    builds_whole = "keras_hub.src.models.gemma4.gemma4_decoder_block.Gemma4TextDecoderBlock"
    bank_class = None
    needs_parent = True

    def parts(self, parent):
        k = parent.moe_router.num_experts_per_token
        gate = ScoreGate(k, num_experts=self.num_experts)
        return {"gate": gate, "experts": SparseGemma4Experts(self)}

    def call(self, x, dispatch_weights):
        return self.mixed(x, RouterOutputs(dispatch_weights), x, training_of_call(self))
