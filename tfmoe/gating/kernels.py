"""The matrices of a gate, of one or of all groups of a hierarchical mixture.

Axes: T tokens, E experts, D model, G groups.
"""

import keras
import tensorflow as tf

from tfmoe.ops.arguments import positive
from tfmoe.ops.expert_matmul import grouped_matmul


class GateKernels(keras.layers.Layer):
    """A layer with the `[D, E]` matrices `kernel_names`, or `[G, D, E]` for G gates at once.

    Args:
        num_experts: E; `None` until a mixture sets it.
        num_groups: `None`, or G.
    """

    kernel_names: tuple[str, ...] = ("gate_kernel",)
    # Of a noisy gate the gradient needs 7 tensors [T, E] for its 2 matrices: draw, W_noise's
    # product, σ, its bounded value, numerator, quotient and argument of Φ in eq 9.
    KEPT_PER_LOGIT = 4

    def __init__(self, num_experts=None, num_groups=None, **kwargs):
        super().__init__(**kwargs)
        self.supports_jit = False  # the number of rows of an expert is known when the graph runs
        self.num_experts = None if num_experts is None else positive("num_experts", num_experts)
        self.num_groups = num_groups

    def build(self, input_shape):
        if self.num_experts is None:
            raise ValueError(
                f"{type(self).__name__} was not told num_experts: give the gate to a MoE layer, or "
                "call gate.for_experts(num_experts) first"
            )
        for name in self.kernel_names:
            shape = (*self.stack, input_shape[-1], self.num_experts)
            self.add_own_weight(name, shape, self.kernel_initializer())

    def add_own_weight(self, name, shape, initializer, **options):
        """A weight as the attribute `name`. It keeps its type under mixed precision."""
        weight = self.add_weight(
            name=name, shape=shape, initializer=initializer, autocast=False, **options
        )
        setattr(self, name, weight)
        return weight

    def add_to_weight(self, name, change):
        """Adds to an own weight; `change` is of this device's groups, where groups are sharded."""
        getattr(self, name).value.assign_add(change)

    def kernel_initializer(self):
        """Of the matrices: small random values, since equal logits would send every token to the
        same experts (Fedus et al. 2021).
        """
        return keras.initializers.VarianceScaling(
            0.1, mode="fan_in", distribution="truncated_normal"
        )

    @property
    def kernels(self):
        """`{name: variable}` of the matrices."""
        return {name: getattr(self, name) for name in self.kernel_names}

    @property
    def stack(self):
        """`(G,)` for G gates at once, `()` for one: the first axes of the gate's weights."""
        return () if self.num_groups is None else (self.num_groups,)

    def logits(self, name, inputs, groups=None):
        """`[T, D] · [D, E]`, each row by its own group's matrix: `[T, E]`."""
        kernel = tf.convert_to_tensor(getattr(self, name))
        if groups is None:
            return tf.matmul(inputs, kernel)
        if groups.size is None:
            return grouped_matmul(inputs, groups.sizes, kernel)
        rows = tf.reshape(inputs, [kernel.shape[0], groups.size, inputs.shape[-1]])
        return tf.reshape(tf.matmul(rows, kernel), [-1, self.num_experts])

    def ops_per_timestep(self, input_dim):
        """Multiply-adds for one token (the paper's count: every `[D, E]` matrix of the gate)."""
        return len(self.kernel_names) * input_dim * self.num_experts

    def kept_for_backward(self, input_dim):
        """Bytes that the backward pass needs of one token: its vector, and some numbers for each
        logit.
        """
        logits = len(self.kernel_names) * self.num_experts
        numbers = input_dim + self.KEPT_PER_LOGIT * logits
        return tf.as_dtype(self.compute_dtype).size * numbers

    def get_build_config(self):
        """Nothing: a gate read from a configuration is a description until a mixture builds its own
        copy, and must not allocate its matrices."""
        return None

    def get_config(self):
        own = {"num_experts": self.num_experts, "num_groups": self.num_groups}
        return {**super().get_config(), **own}
