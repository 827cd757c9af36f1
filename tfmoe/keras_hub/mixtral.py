"""Mixtral (Jiang et al. 2024)."""

import keras

from tfmoe.keras_hub.block import SparseBlock
from tfmoe.keras_hub.experts import SeparateExperts
from tfmoe.keras_hub.gates import SoftmaxTopK


class SparseMixtralExperts(SeparateExperts):
    """The experts of a Mixtral block."""

    def kernels(self):
        return [
            self._expert_feedforward_gate_dense,
            self._expert_feedforward_intermediate_dense,
            self._expert_feedforward_output_dense,
        ]


class SparseMixtral(SparseBlock):
    """A Mixtral block.

    In training with `router_jitter_noise` (where KerasHub 0.32 fails), the inputs of router and
    experts are multiplied by uniform draws from `[1 - router_jitter_noise, 1 +
    router_jitter_noise]`.
    """

    replaces = "keras_hub.src.models.mixtral.mixtral_decoder.MixtralSparseMoeBlock"
    builds_bank = "keras_hub.src.models.mixtral.mixtral_decoder.MixtralMoeExperts"
    bank_class = SparseMixtralExperts

    def make_gate(self):
        return SoftmaxTopK(
            self.top_k,
            renormalize=True,
            loss_weight=self.router_aux_loss_coef,
            num_experts=self.num_experts,
        )

    def parts(self, parent):
        jitter = {"jitter_seeds": keras.random.SeedGenerator()} if self.router_jitter_noise else {}
        return {**super().parts(parent), **jitter}

    def prepared(self, tokens, training):
        noise = self.router_jitter_noise
        if not training or not noise:
            return tokens
        shape = keras.ops.shape(tokens)
        return tokens * keras.random.uniform(
            shape, 1 - noise, 1 + noise, dtype=tokens.dtype, seed=self.jitter_seeds
        )
