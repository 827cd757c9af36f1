"""What the paper puts around every layer: activation, dropout, residual connection (App. C)."""

import inspect

import keras

from tfmoe.ops import arguments
from tfmoe.ops.tracking import track


@keras.saving.register_keras_serializable("tfmoe")
class Residual(keras.layers.Layer):
    """`y = x + dropout(activation(layer(x)))`.

    Args:
        layer: a Keras layer whose output has the shape of its input.
        activation: of the layer's output, before dropout, a function without variables; the paper
            passes a mixture's output through a sigmoid.
        dropout: probability of dropping an element of the layer's output, 0 <= dropout < 1.
        seed: integer, for reproducible dropout.

    Call arguments:
        inputs: `[..., D]` of any number type.
        mask: `[...]` bool, given to `layer` where it takes one.

    Returns:
        `[..., D]` in the layer's compute type.

    Raises:
        ValueError: for arguments out of range; in `build`, if the layer changes the shape.

    Example:
        >>> block = Residual(FeedForward(64), activation="sigmoid", dropout=0.1)
        >>> block(np.ones((8, 5, 16))).shape
        TensorShape([8, 5, 16])
    """

    def __init__(self, layer, activation=None, dropout=0.0, seed=None, **kwargs):
        if not isinstance(layer, keras.layers.Layer):
            raise ValueError(f"layer must be a Keras layer, got {layer!r}")
        kwargs.setdefault("name", f"residual_{layer.name}")
        super().__init__(**kwargs)
        self.supports_masking = True
        self.layer = layer
        self.activation = arguments.activation("activation", activation)
        self.seed = arguments.random_seed("seed", seed)
        self.dropout = keras.layers.Dropout(
            arguments.fraction("dropout", dropout),
            seed=self.seed,
            name="dropout",
            dtype=self.dtype_policy,
        )
        track(self, dropout_seed=getattr(self.dropout, "seed_generator", None))
        self._takes_mask = "mask" in inspect.signature(layer.call).parameters

    def build(self, input_shape):
        input_dim = arguments.last_dimension(f"inputs of {self.name}", input_shape)
        output_shape = self.layer.compute_output_shape(tuple(input_shape))
        if tuple(output_shape) != tuple(input_shape):
            raise ValueError(
                "a residual connection needs a layer that keeps the shape: "
                f"{self.layer.name} makes {output_shape} of {tuple(input_shape)} "
                "(an LSTM needs return_sequences=True, and "
                f"projection_units={input_dim} if it has another width)"
            )
        if not self.layer.built:  # it is, where it was read from a saved model
            self.layer.build(input_shape)

    def call(self, inputs, mask=None, training=False):
        inputs = arguments.float_tensor(f"inputs of {self.name}", inputs, self.compute_dtype)
        kwargs = {"mask": mask} if self._takes_mask else {}
        return self.join(inputs, self.layer(inputs, training=training, **kwargs), training)

    def join(self, inputs, outputs, training=False):
        """`x + dropout(activation(y))`, for outputs `y` of the layer that the caller has already
        (those of a single step of a recurrent one, for example).
        """
        return inputs + self.dropout(self.activation(outputs), training=training)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def parameter_count(self, input_dim):
        """Weights of the wrapped layer."""
        return self.layer.parameter_count(input_dim)

    def ops_per_timestep(self, input_dim):
        """Multiply-adds of the wrapped layer for one token."""
        return self.layer.ops_per_timestep(input_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "layer": keras.saving.serialize_keras_object(self.layer),
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout.rate,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "layer": keras.saving.deserialize_keras_object(config["layer"])})
