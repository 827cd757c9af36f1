"""Qwen3-MoE (Qwen Team 2025)."""

from tfmoe.keras_hub.block import SparseBlock
from tfmoe.keras_hub.experts import FusedExperts
from tfmoe.keras_hub.gates import SoftmaxTopK


class SparseQwen3Moe(SparseBlock):
    """A Qwen3-MoE block."""

    replaces = "keras_hub.src.models.qwen3_moe.qwen3_moe_decoder.Qwen3SparseMoeBlock"
    builds_bank = "keras_hub.src.models.qwen3_moe.qwen3_moe_decoder.Qwen3MoeExperts"
    bank_class = FusedExperts

    def make_gate(self):
        return SoftmaxTopK(
            self.top_k,
            renormalize=self.norm_top_k_prob,
            loss_weight=self.router_aux_loss_coefficient,
            num_experts=self.num_experts,
        )
