"""A plain feed-forward network: the computation of a single expert, without a gate.

Axes: D model, H hidden.
"""

import keras
import tensorflow as tf

from tfmoe.layers.block import Block, Kept
from tfmoe.layers.initializers import GateAndUp, independent
from tfmoe.layers.portable_activations import portable
from tfmoe.ops import arguments
from tfmoe.ops.arguments import Activation, Initializer
from tfmoe.ops.expert_network import gated as gated_activation
from tfmoe.ops.tracking import track

# Activations whose gradient is computed from the output; others need the input too.
GRADIENT_FROM_OUTPUT = {"relu", "relu6", "sigmoid", "tanh", "elu", "selu", "linear"}


@keras.saving.register_keras_serializable("tfmoe")
class FeedForward(Block):
    """Feed-forward network `D → H → … → H → D`, the dense baseline of a mixture (App. C: MoE-1-Wide
    and MoE-1-Deep).

    Args:
        hidden_units: H, width of the hidden layers.
        depth: number of hidden layers.
        activation: activation of the hidden layers; must have no variables.
        use_bias: whether every layer has a bias.
        kernel_initializer: a Keras initializer, or a function of shape and dtype.
        gated: whether every hidden layer is gated, `activation(x · W_gate) * (x · W_up)` (Shazeer
            2020): SwiGLU with `activation="silu"`, GEGLU with `"gelu"`. The kernel of a gated layer
            holds both matrices, `[W_gate, W_up]`.

    Call arguments:
        inputs: `[..., D]` of any numeric type; `[B, D]` can be sparse.

    Returns:
        `[..., D]` in the layer's compute dtype.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> FeedForward(hidden_units=64)(np.ones((8, 16))).shape
        TensorShape([8, 16])
    """

    residual_activation = "sigmoid"

    def __init__(
        self,
        hidden_units: int,
        depth: int = 1,
        activation: Activation = "relu",
        use_bias: bool = False,
        kernel_initializer: Initializer = "glorot_uniform",
        gated: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.hidden_units = arguments.positive("hidden_units", hidden_units)
        self.depth = arguments.positive("depth", depth)
        self.activation = arguments.activation("activation", activation)
        self.use_bias = arguments.boolean("use_bias", use_bias)
        self.kernel_initializer = arguments.initializer("kernel_initializer", kernel_initializer)
        self.gated = arguments.boolean("gated", gated)

    def build(self, input_shape):
        input_dim = arguments.last_dimension(f"inputs of {self.name}", input_shape)
        self.dense = []
        for i in range(self.depth + 1):
            is_hidden = i < self.depth
            is_gated = self.gated and is_hidden
            initializer = independent(self.kernel_initializer)
            layer = keras.layers.Dense(
                (self.hidden_units if is_hidden else input_dim) * (2 if is_gated else 1),
                activation=self._activate if is_hidden and not is_gated else None,
                use_bias=self.use_bias,
                kernel_initializer=GateAndUp(initializer) if is_gated else initializer,
                name=f"dense_{i}",
                dtype=self.dtype_policy,
            )
            layer.build((None, self.hidden_units if i else input_dim))
            self.dense.append(layer)
        track(self, dense=self.dense)

    def call(self, inputs):
        if not (isinstance(inputs, tf.SparseTensor) and inputs.shape.rank == 2):  # Dense accepts it
            inputs = arguments.float_tensor(f"inputs of {self.name}", inputs, self.compute_dtype)
        for i, layer in enumerate(self.dense):
            inputs = layer(inputs)
            if self.gated and i < self.depth:
                inputs = gated_activation(self._activate)(inputs)
        return inputs

    def _activate(self, x):
        return portable(self.activation)(x)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def ops_per_timestep(self, input_dim):
        """Multiply-adds for one token."""
        hidden = self.hidden_units * (2 if self.gated else 1)  # sums of a hidden layer
        inner = (self.depth - 1) * self.hidden_units * hidden
        return input_dim * hidden + inner + self.hidden_units * input_dim

    def kept_for_backward(self, input_dim, steps=0):
        """Bytes kept per position: the input and the hidden activations, `D + depth·H` values;
        `D + 2·depth·H` for activations such as gelu, whose gradient needs the input too. A gated
        layer also keeps both factors of its product, `2·H` values.
        """
        activation = keras.activations.serialize(self.activation)
        copies = 1 if activation in GRADIENT_FROM_OUTPUT else 2
        copies += 2 if self.gated else 0
        num_values = input_dim + copies * self.depth * self.hidden_units
        return Kept(tf.as_dtype(self.compute_dtype).size * num_values)

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_units": self.hidden_units,
            "depth": self.depth,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "gated": self.gated,
        }
