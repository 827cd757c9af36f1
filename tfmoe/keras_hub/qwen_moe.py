"""Qwen-MoE (Qwen Team 2024): Qwen3-MoE with a shared expert and its gate."""

import keras

from tfmoe.keras_hub.qwen3_moe import SparseQwen3Moe


class SparseQwenMoe(SparseQwen3Moe):
    """A Qwen-MoE block."""

    replaces = "keras_hub.src.models.qwen_moe.qwen_moe_decoder.QwenSparseMoeBlock"
    builds_bank = "keras_hub.src.models.qwen_moe.qwen_moe_decoder.QwenMoeExperts"

    def shared_layers(self):
        return dense_layers_of(self.shared_expert_dense, self.shared_expert_gate_dense)

    def shared_outputs(self, tokens):
        gate = keras.ops.sigmoid(self.shared_expert_gate_dense(tokens))
        return self.shared_expert_dense(tokens) * gate


def dense_layers_of(network, gate):
    """The dense layers of a shared expert and its gate.

    Args:
        network: KerasHub's layer for the shared expert.
        gate: the dense layer of its gate.
    """
    return [
        network._feedforward_gate_dense,
        network._feedforward_intermediate_dense,
        network._feedforward_output_dense,
        gate,
    ]
