"""What the paper puts around every layer: activation, dropout, residual connection (App. C)."""

import functools
import inspect

import keras
import tensorflow as tf

from tfmoe.layers.block import Block
from tfmoe.ops import arguments
from tfmoe.ops.tracking import track


@keras.saving.register_keras_serializable("tfmoe")
class Residual(Block):
    """`y = x + dropout(activation(layer(x)))`; without the residual connection `y` has no `x`.

    It steps, counts and keeps what its layer does. For a layer of Keras itself the defaults of
    `Block` hold: it steps if it takes `[B, D]`, and its costs are not known.

    Args:
        layer: a Keras layer whose output has the shape of its input.
        activation: of the layer's output, before dropout, a function without variables; the paper
            passes a mixture's output through a sigmoid.
        dropout: probability of dropping an element of the layer's output, 0 <= dropout < 1.
        seed: integer, for reproducible dropout.
        residual: whether to add the input. Published models that the paper compares with do not
            (Jozefowicz et al. 2016), or not around every layer (Wu et al. 2016).

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

    def __init__(self, layer, activation=None, dropout=0.0, seed=None, residual=True, **kwargs):
        if not isinstance(layer, keras.layers.Layer):
            raise ValueError(f"layer must be a Keras layer, got {layer!r}")
        kwargs.setdefault("name", f"residual_{layer.name}")
        super().__init__(**kwargs)
        self.supports_masking = True
        self.layer = layer
        self.activation = arguments.activation("activation", activation)
        self.seed = arguments.random_seed("seed", seed)
        self.residual = arguments.boolean("residual", residual)
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
                "a block needs a layer that keeps the shape: "
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
        """`x + dropout(activation(y))`, or without `x`, for outputs `y` of the layer that the
        caller has already (those of a single step of a recurrent one, for example).
        """
        outputs = self.dropout(self.activation(outputs), training=training)
        return inputs + outputs if self.residual else outputs

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def _of_layer(self, name):
        """What the layer has of the protocol of `Block`, or else the default."""
        if hasattr(self.layer, name):
            return getattr(self.layer, name)
        default = getattr(Block, name)
        return functools.partial(default, self.layer) if callable(default) else default

    @property
    def is_causal(self):
        return self._of_layer("is_causal")

    @property
    def needs_memory(self):
        return self._of_layer("needs_memory")

    def initial_state(self, batch_size):
        return self._of_layer("initial_state")(batch_size)

    def prepared(self, memory, memory_mask=None):
        """What the layer makes of a source, if it `needs_memory`."""
        return self.layer.prepared(memory, memory_mask)

    def step(self, inputs, state, *prepared):
        """One step; `prepared` only for a layer that `needs_memory`."""
        inputs = arguments.float_tensor(f"inputs of {self.name}", inputs, self.compute_dtype)
        outputs, *others = self._of_layer("step")(inputs, state, *prepared)
        return self.join(inputs, outputs), *others

    def ops_per_timestep(self, input_dim):
        return self._of_layer("ops_per_timestep")(input_dim)

    def gate_ops_per_timestep(self, input_dim):
        return self._of_layer("gate_ops_per_timestep")(input_dim)

    def kept_for_backward(self, input_dim, steps=0):
        """What the layer keeps, the output of the activation, and a byte for each element that
        dropout may drop.
        """
        kept = self._of_layer("kept_for_backward")(input_dim, steps)
        own = input_dim if self.dropout.rate else 0
        if self.activation is not keras.activations.linear:
            own += tf.as_dtype(self.compute_dtype).size * input_dim
        return kept._replace(always=kept.always + own)

    def kept_of_source(self, input_dim):
        return self._of_layer("kept_of_source")(input_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "layer": keras.saving.serialize_keras_object(self.layer),
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout.rate,
            "seed": self.seed,
            "residual": self.residual,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "layer": keras.saving.deserialize_keras_object(config["layer"])})
