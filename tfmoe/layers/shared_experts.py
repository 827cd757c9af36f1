"""Experts that compute every token, beside those that a gate selects.

Axes: T tokens, D model, H hidden, N outputs, S shared experts.
"""

import tensorflow as tf

from tfmoe.layers.experts import Experts
from tfmoe.ops import arguments
from tfmoe.ops.tracking import track


class SharedExperts(Experts):
    """S experts for every token: `Σ_i E_i(x)`, without weights (DeepSeekMoE, Dai et al. 2024).

    They are one network with S·H hidden units, whose weights are a stack of one. With one hidden
    layer this is the sum of S experts; with more, its hidden layers are S·H wide. Under a
    `MixedStrategy` every replica has all of them: they are data-parallel, like a dense layer.

    Args:
        num_shared: S.
        hidden_units: H of one expert.
        has_gate: whether the sum is multiplied by `sigmoid(x · w)` (Qwen2-MoE, Yang et al. 2024).
            `w` is 0 at first.
        **arguments: further arguments of `Experts`.

    Call arguments:
        tokens: `[T, D]`.
        training: whether hidden activations are kept for the backward pass, and dropout applied.

    Returns:
        `[T, N]`.
    """

    def __init__(self, num_shared, hidden_units, has_gate=False, **arguments_of_experts):
        num_shared = arguments.positive("shared_experts", num_shared)
        hidden_units = arguments.positive("hidden_units", hidden_units)
        super().__init__(1, num_shared * hidden_units, **arguments_of_experts)
        self.num_shared = num_shared
        self.has_gate = arguments.boolean("shared_gate", has_gate)

    def build(self, tokens_shape):
        super().build(tokens_shape)
        if self.has_gate:
            self.gate_kernel = self.add_weight(
                name="gate_kernel", shape=(tokens_shape[-1], 1), initializer="zeros"
            )
            track(self, gate_kernel=self.gate_kernel)

    def call(self, tokens, training=False):
        outputs = self.compute(tokens, tf.shape(tokens)[:1], training=training)
        if not self.has_gate:
            return outputs
        return outputs * tf.sigmoid(tf.matmul(tokens, tf.convert_to_tensor(self.gate_kernel)))

    def compute_output_shape(self, tokens_shape):
        return (*tokens_shape[:-1], self.output_width(tokens_shape[-1]))

    def ops_per_row(self, input_dim):
        return super().ops_per_row(input_dim) + (input_dim if self.has_gate else 0)

    def kept_per_row(self, input_dim):
        """The number of values kept for the backward pass of a row with or without recomputation:
        the output and the gate, which are factors of a product.
        """
        return self.output_width(input_dim) + 1 if self.has_gate else 0

    def own_config(self):
        config = super().own_config()
        del config["num_experts"]
        return {
            **config,
            "num_shared": self.num_shared,
            "hidden_units": self.hidden_units // self.num_shared,
            "has_gate": self.has_gate,
        }


def shared_experts_or_none(num_shared, has_gate, network):
    """The `SharedExperts` for the arguments of a mixture, `None` without shared experts.

    Args:
        num_shared: the argument `shared_experts`.
        has_gate: the argument `shared_gate`.
        network: dictionary of further arguments of `Experts`.

    Raises:
        ValueError: an argument is out of range, or there is a gate but no shared expert.
    """
    num_shared = arguments.count("shared_experts", num_shared)
    if num_shared and network["hidden_units"] is None:
        raise ValueError(
            f"shared_experts must be 0 with experts=LAYER, got {num_shared}: add the output of a "
            "layer to that of the mixture"
        )
    if num_shared:
        return SharedExperts(num_shared, has_gate=has_gate, name="shared_experts", **network)
    if arguments.boolean("shared_gate", has_gate):
        raise ValueError("shared_gate must be False without shared experts, got shared_experts=0")
    return None
