"""The weight matrices of a gate, or of the gates of all groups of a hierarchical mixture.

Axes: T tokens, E experts, D model, G groups.
"""

from typing import Any

import keras
import tensorflow as tf

from tfmoe.gating.required import check_is_implemented
from tfmoe.ops.argument_names import check_names
from tfmoe.ops.arguments import positive
from tfmoe.ops.expert_matmul import grouped_matmul

BALANCING = (
    "the balancing losses of NoisyTopK are importance_weight={0!r} and load_weight={0!r}; those of "
    "TopK, Switch and GShard balance_weight={0!r}"
)
HINTS = {
    "balance_weight": BALANCING,
    "importance_weight": BALANCING,
    "load_weight": BALANCING,
    "capacity_factor": "give it to the layer: MoE(…, capacity_factor={})",
    "hidden_units": "it is a setting of the experts: MoE(num_experts, hidden_units={})",
    "k": "the gate has no k to set; gates with a k are NoisyTopK(k={0}) and TopK(k={0})",
}


class GateKernels(keras.layers.Layer):
    """A layer with one matrix for each of `kernel_names`: `[D, E]`, or `[G, D, E]` for G gates.

    Args:
        num_experts: E; `None` until a mixture sets it.
        num_groups: G if the layer has the matrices of G gates, else `None`.
    """

    num_experts: Any  # int, or None before `for_experts`
    kernel_names: tuple[str, ...] = ("gate_kernel",)
    # The gradient of a noisy gate needs 7 tensors [T, E] for its 2 matrices: the draw, the product
    # with W_noise, σ, its lower-bounded value, numerator, quotient and argument of Φ in eq 9.
    KEPT_PER_LOGIT = 4

    def __init__(self, num_experts: int | None = None, num_groups: int | None = None, **kwargs):
        check_is_implemented(type(self))
        check_names(type(self), kwargs, HINTS)
        super().__init__(**kwargs)
        self.num_experts = None if num_experts is None else positive("num_experts", num_experts)
        self.num_groups = num_groups

    def checked_k(self, k: int) -> int:
        """Returns k if it is a valid number of experts per token; else raises a `ValueError`."""
        k = positive("k", k)
        if self.num_experts is not None and k > self.num_experts:
            raise ValueError(
                f"k must be at most {self.num_experts}, the number of experts (at the first level "
                f"of a hierarchical mixture, of groups), got k={k}"
            )
        return k

    def build(self, input_shape):
        if self.num_experts is None:
            raise ValueError(
                f"{type(self).__name__} has no num_experts: give the gate to a MoE layer, or call "
                "gate.for_experts(num_experts) first"
            )
        for name in self.kernel_names:
            shape = (*self.stack, input_shape[-1], self.num_experts)
            self.add_own_weight(name, shape, self.kernel_initializer())

    def add_own_weight(self, name, shape, initializer, **options):
        """Adds a weight as the attribute `name`. It keeps its dtype under mixed precision.

        Args:
            name: name of the weight and the attribute.
            shape: shape of the weight.
            initializer: a Keras initializer.
            **options: further arguments of `add_weight`.
        """
        weight = self.add_weight(
            name=name, shape=shape, initializer=initializer, autocast=False, **options
        )
        setattr(self, name, weight)
        return weight

    def add_updated_weight(self, name, shape, initializer="zeros"):
        """Adds a weight that `update` changes, on all replicas in the same way; arguments as for
        `add_own_weight`.
        """
        options = {"trainable": False, "aggregation": "only_first_replica"}
        return self.add_own_weight(name, shape, initializer, **options)

    def add_to_weight(self, name, change):
        """Adds a value to a weight of `add_own_weight`.

        Args:
            name: name of the weight.
            change: tensor of the weight's shape; if groups are sharded, for the groups on this
                device.
        """
        getattr(self, name).value.assign_add(change)

    def assign_weight(self, name, value):
        """Sets a weight of `add_own_weight`; arguments as for `add_to_weight`."""
        getattr(self, name).value.assign(value)

    def kernel_initializer(self):
        """The initializer of the matrices: small random values, because equal logits would send
        every token to the same experts (Fedus et al. 2021).
        """
        return keras.initializers.VarianceScaling(
            0.1, mode="fan_in", distribution="truncated_normal"
        )

    @property
    def kernels(self) -> dict:
        """The matrices, `{name: variable}`."""
        return {name: getattr(self, name) for name in self.kernel_names}

    @property
    def stack(self) -> tuple:
        """The leading axes of the gate's weights: `(G,)` for G gates at once, else `()`."""
        return () if self.num_groups is None else (self.num_groups,)

    def logits(self, name: str, inputs: tf.Tensor, groups=None) -> tf.Tensor:
        """Multiplies each row with a matrix, for G gates with the matrix of the row's group.

        Args:
            name: the matrix, one of `kernel_names`, or another `[D, N]` weight of the gate.
            inputs: `[T, D]`.
            groups: `None`, or the `tfmoe.gating.Groups` of the rows.

        Returns:
            `[T, E]`, or `[T, N]`.
        """
        self.check_groups(groups)
        kernel = tf.convert_to_tensor(getattr(self, name))
        if groups is None or groups.sizes is None:
            return tf.matmul(inputs, kernel)
        if groups.size is None:
            return grouped_matmul(inputs, groups.sizes, kernel, groups.mask is not None)
        rows = tf.reshape(inputs, [kernel.shape[0], groups.size, inputs.shape[-1]])
        return tf.reshape(tf.matmul(rows, kernel), [-1, kernel.shape[-1]])

    def check_groups(self, groups):
        """Raises a `ValueError` if the gates of several groups do not know the groups of rows."""
        if self.num_groups is not None and groups is None:
            raise ValueError(
                f"{type(self).__name__}.route must pass its argument groups on to logits and "
                f"routing_of_tokens: it routes the tokens of {self.num_groups} groups"
            )

    def ops_per_timestep(self, input_dim: int) -> int:
        """Multiply-adds for one token (the paper's count: every `[D, E]` matrix of the gate)."""
        return len(self.kernel_names) * input_dim * self.num_experts

    def kept_for_backward(self, input_dim: int) -> int:
        """Bytes per token that the forward pass keeps for the backward pass: the token, and
        `KEPT_PER_LOGIT` values for each logit.
        """
        num_logits = len(self.kernel_names) * self.num_experts
        num_values = input_dim + self.KEPT_PER_LOGIT * num_logits
        return tf.as_dtype(self.compute_dtype).size * num_values

    def get_build_config(self):
        """Returns `None`: a gate from a configuration is not built, so that it allocates nothing.
        The mixture builds its copy.
        """
        return None

    def get_config(self):
        config = {"num_experts": self.num_experts, "num_groups": self.num_groups}
        return {**super().get_config(), **config}
