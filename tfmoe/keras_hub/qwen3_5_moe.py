"""Qwen3.5-MoE (Qwen Team 2026)."""

import keras

from tfmoe.keras_hub.block import SparseBlock
from tfmoe.keras_hub.experts import FusedExperts, in_float32
from tfmoe.keras_hub.gates import SoftmaxTopK
from tfmoe.keras_hub.qwen_moe import dense_layers_of


class SparseQwen3_5MoeExperts(FusedExperts):
    """The experts of a Qwen3.5-MoE block."""

    def hidden_activation(self):
        return in_float32(keras.ops.silu)


class SparseQwen3_5Moe(SparseBlock):
    """A Qwen3.5-MoE block."""

    replaces = "keras_hub.src.models.qwen3_5_moe.qwen3_5_moe_decoder.Qwen3_5MoeSparseMoeBlock"
    builds_bank = "keras_hub.src.models.qwen3_5_moe.qwen3_5_moe_decoder.Qwen3_5MoeExperts"
    bank_class = SparseQwen3_5MoeExperts

    def make_gate(self):
        return SoftmaxTopK(
            self.top_k,
            renormalize=True,
            loss_weight=self.router_aux_loss_coefficient,
            num_experts=self.num_experts,
        )

    def router_logits(self, tokens):
        return self._router_gate(tokens)

    def shared_layers(self):
        return dense_layers_of(self.shared_expert, self._shared_expert_gate)

    def shared_outputs(self, tokens):
        return keras.ops.sigmoid(self._shared_expert_gate(tokens)) * self.shared_expert(tokens)
