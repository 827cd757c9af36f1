"""A plain feed-forward network: the computation of a single expert, without a gate.

Axes: D model, H hidden.
"""

import keras
import tensorflow as tf

from tfmoe.layers.block import Block, Kept
from tfmoe.layers.initializers import independent
from tfmoe.ops import arguments
from tfmoe.ops.arguments import Activation, Initializer
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
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.hidden_units = arguments.positive("hidden_units", hidden_units)
        self.depth = arguments.positive("depth", depth)
        self.activation = arguments.activation("activation", activation)
        self.use_bias = arguments.boolean("use_bias", use_bias)
        self.kernel_initializer = arguments.initializer("kernel_initializer", kernel_initializer)

    def build(self, input_shape):
        input_dim = arguments.last_dimension(f"inputs of {self.name}", input_shape)
        self.dense = []
        widths = [self.hidden_units] * self.depth + [input_dim]
        for i, width in enumerate(widths):
            layer = keras.layers.Dense(
                width,
                activation=self.activation if i < self.depth else None,
                use_bias=self.use_bias,
                kernel_initializer=independent(self.kernel_initializer),
                name=f"dense_{i}",
                dtype=self.dtype_policy,
            )
            layer.build((None, widths[i - 1] if i else input_dim))
            self.dense.append(layer)
        track(self, dense=self.dense)

    def call(self, inputs):
        if not (isinstance(inputs, tf.SparseTensor) and inputs.shape.rank == 2):  # Dense accepts it
            inputs = arguments.float_tensor(f"inputs of {self.name}", inputs, self.compute_dtype)
        for layer in self.dense:
            inputs = layer(inputs)
        return inputs

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def ops_per_timestep(self, input_dim):
        """Multiply-adds for one token."""
        inner = (self.depth - 1) * self.hidden_units**2
        return 2 * input_dim * self.hidden_units + inner

    def kept_for_backward(self, input_dim, steps=0):
        """Bytes kept per position: the input and the hidden activations, `D + depth·H` values;
        `D + 2·depth·H` for activations such as gelu, whose gradient needs the input too.
        """
        activation = keras.activations.serialize(self.activation)
        copies = 1 if activation in GRADIENT_FROM_OUTPUT else 2
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
        }
