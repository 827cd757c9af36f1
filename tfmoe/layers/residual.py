"""The wrapper of every layer in a model: normalization, activation, dropout, residual connection
(App. C).
"""

import functools
import inspect

import keras
import tensorflow as tf

from tfmoe.layers.block import Block
from tfmoe.layers.dropout import Dropout
from tfmoe.layers.normalization import EPSILON, Norm, normalization, normalized
from tfmoe.layers.portable_activations import portable
from tfmoe.ops import arguments
from tfmoe.ops.arguments import Activation
from tfmoe.ops.tracking import track


@keras.saving.register_keras_serializable("tfmoe")
class Residual(Block):
    """Residual block: `y = x + dropout(activation(layer(norm(x))))`.

    Steps, operation counts and memory are those of the layer. A layer of Keras has the defaults of
    `Block`: it can step if it accepts `[B, D]`, and its costs are unknown.

    Args:
        layer: a Keras layer whose output has the shape of its input.
        activation: activation of the layer's output, before dropout; must have no variables. The
            paper applies a sigmoid to the output of a mixture.
        dropout: probability of dropping an element of the layer's output, 0 <= dropout < 1.
        seed: integer, for reproducible dropout.
        residual: whether to add x. Published models that the paper compares with do not
            (Jozefowicz et al. 2016), or not around every layer (Wu et al. 2016).
        norm: normalization of the layer's input: `"rms"` (RMSNorm), `"layer"` (LayerNorm) or `None`
            for none. Transformers have one before every layer.
        norm_epsilon: added to the mean square or the variance of the normalization, above 0.

    Call arguments:
        inputs: `[..., D]` of any numeric type.
        mask: `[...]` bool, passed to `layer` if it accepts a mask.
        memory: `[B, S, D]`, the source, for a layer with `needs_memory`.
        memory_mask: `[B, S]` bool, or `None`.
        gate_inputs: `None`, or what the gate of a mixture reads, passed to `layer`.

    Returns:
        `[..., D]` in the layer's compute dtype.

    Raises:
        ValueError: an argument is out of range; in `build`, the layer changes the shape.

    Example:
        >>> block = Residual(FeedForward(64), activation="sigmoid", dropout=0.1)
        >>> block(np.ones((8, 5, 16))).shape
        TensorShape([8, 5, 16])
    """

    def __init__(
        self,
        layer: keras.Layer,
        activation: Activation | None = None,
        dropout: float = 0.0,
        seed: int | None = None,
        residual: bool = True,
        norm: Norm | None = None,
        norm_epsilon: float = EPSILON,
        **kwargs,
    ):
        if not isinstance(layer, keras.layers.Layer):
            raise ValueError(f"layer must be a Keras layer, got {layer!r}")
        kwargs.setdefault("name", f"residual_{layer.name}")
        super().__init__(**kwargs)
        self.supports_masking = True
        self.layer = layer
        self.activation = arguments.activation("activation", activation)
        self.seed = arguments.random_seed("seed", seed)
        self.residual = arguments.boolean("residual", residual)
        self.norm, self.norm_epsilon = norm, norm_epsilon
        self.normalization = normalization("norm", norm, "norm", self.dtype_policy, norm_epsilon)
        self.dropout = Dropout(
            arguments.fraction("dropout", dropout),
            seed=self.seed,
            name="dropout",
            dtype=self.dtype_policy,
        )
        track(self, dropout_seed=getattr(self.dropout, "seed_generator", None))
        arguments_of_call = inspect.signature(layer.call).parameters
        self._accepts_mask = "mask" in arguments_of_call
        self._accepts_gate_inputs = "gate_inputs" in arguments_of_call
        first_state = inspect.signature(getattr(layer, "initial_state", Block.initial_state))
        self._accepts_max_length = "max_length" in first_state.parameters

    def build(self, inputs_shape, memory_shape=None, gate_inputs_shape=None):
        if gate_inputs_shape is not None:
            self._check_gate()
        input_dim = arguments.last_dimension(f"inputs of {self.name}", inputs_shape)
        inputs_shape = tuple(inputs_shape)
        output_shape = self.layer.compute_output_shape(inputs_shape)
        if tuple(output_shape) != inputs_shape:
            raise ValueError(
                "a block needs a layer that keeps the shape: "
                f"{self.layer.name} converts {inputs_shape} to {output_shape} "
                "(an LSTM needs return_sequences=True, and "
                f"projection_units={input_dim} if it has another width; a mixture must not have "
                "output_units)"
            )
        if not self.layer.built:  # a loaded layer is built
            others = [shape for shape in (memory_shape, gate_inputs_shape) if shape is not None]
            self.layer.build(inputs_shape, *others)
        if self.normalization is not None:
            self.normalization.build(inputs_shape)
            self.input_spec = keras.layers.InputSpec(axes={-1: input_dim})

    def call(
        self,
        inputs,
        mask=None,
        training=False,
        memory=None,
        memory_mask=None,
        gate_inputs=None,
    ):
        inputs = arguments.float_tensor(f"inputs of {self.name}", inputs, self.compute_dtype)
        kwargs = {"mask": mask} if self._accepts_mask else {}
        if self.needs_memory:
            kwargs |= {"memory": memory, "memory_mask": memory_mask}
        if gate_inputs is not None:
            self._check_gate()
            kwargs["gate_inputs"] = gate_inputs
        normal = normalized(self.normalization, inputs)
        outputs = self.layer(normal, training=training, **kwargs)
        return self.join(inputs, outputs, training)

    def _check_gate(self):
        if not self._accepts_gate_inputs:
            raise ValueError(f"{self.name} got gate_inputs, but {self.layer.name} has no gate")

    def with_attention(self, inputs, memory, memory_mask=None):
        """Computes the output and the attention weights of a layer with `needs_memory`, in
        evaluation.

        Args:
            inputs: `[B, T, D]`.
            memory: `[B, S, D]`.
            memory_mask: `[B, S]` bool, or `None`.

        Returns:
            `[B, T, D]`, and `[B, T, S]` float32.
        """
        inputs = arguments.float_tensor(f"inputs of {self.name}", inputs, self.compute_dtype)
        outputs, weights = self.layer(
            normalized(self.normalization, inputs),
            memory=memory,
            memory_mask=memory_mask,
            return_attention=True,
        )
        return self.join(inputs, outputs), weights

    def join(self, inputs, outputs, training=False):
        """Computes `x + dropout(activation(y))` for given outputs y of the layer, such as those of
        a single step.

        Args:
            inputs: x.
            outputs: y.
            training: whether dropout is applied.
        """
        outputs = self.dropout(portable(self.activation)(outputs), training=training)
        return inputs + outputs if self.residual else outputs

    def compute_output_shape(self, inputs_shape, memory_shape=None, gate_inputs_shape=None):
        return tuple(inputs_shape)

    def _layer_attribute(self, name):
        """The attribute or method of the layer, or the default of `Block`."""
        if hasattr(self.layer, name):
            return getattr(self.layer, name)
        default = getattr(Block, name)
        return functools.partial(default, self.layer) if callable(default) else default

    @property
    def is_causal(self) -> bool:  # type: ignore[override]
        return self._layer_attribute("is_causal")

    @property
    def reads_later(self) -> bool:  # type: ignore[override]
        return self._layer_attribute("reads_later")

    @property
    def needs_memory(self) -> bool:  # type: ignore[override]
        return self._layer_attribute("needs_memory")

    @property
    def needs_token_ids(self) -> bool:  # type: ignore[override]
        return self._layer_attribute("needs_token_ids")

    def initial_state(self, batch_size, max_length=None):
        """The layer's state before the first step.

        Args:
            batch_size: B, an integer or a scalar tensor.
            max_length: the maximum number of steps, which a layer with a cache needs.
        """
        kwargs = {"max_length": max_length} if self._accepts_max_length else {}
        return self._layer_attribute("initial_state")(batch_size, **kwargs)

    def prepared(self, memory, memory_mask=None):
        """The tensors that all steps of a layer with `needs_memory` share.

        Args:
            memory: `[B, S, D]`, the source vectors.
            memory_mask: `[B, S]` bool, or `None`.
        """
        return self.layer.prepared(memory, memory_mask)

    def step(self, inputs, state, *prepared, gate_inputs=None):
        """Computes one step.

        Args:
            inputs: `[B, D]`.
            state: `initial_state`, or the state that the previous step returned.
            *prepared: the result of `prepared`, for a layer with `needs_memory` only.
            gate_inputs: as for a call.

        Returns:
            Output `[B, D]` and the new state; with `needs_memory` also the attention weights.
        """
        inputs = arguments.float_tensor(f"inputs of {self.name}", inputs, self.compute_dtype)
        normal = normalized(self.normalization, inputs)
        kwargs = {} if gate_inputs is None else {"gate_inputs": gate_inputs}
        outputs, *others = self._layer_attribute("step")(normal, state, *prepared, **kwargs)
        return self.join(inputs, outputs), *others

    def ops_per_timestep(self, input_dim):
        return self._layer_attribute("ops_per_timestep")(input_dim)

    def gate_ops_per_timestep(self, input_dim):
        return self._layer_attribute("gate_ops_per_timestep")(input_dim)

    def kept_for_backward(self, input_dim, steps=0):
        """Bytes kept per position: by the layer, for the input of the normalization, for the output
        of the activation, and one byte per element for the dropout mask.
        """
        kept = self._layer_attribute("kept_for_backward")(input_dim, steps)
        has_activation = self.activation is not keras.activations.linear
        copies = (self.normalization is not None) + has_activation
        added = tf.as_dtype(self.compute_dtype).size * copies * input_dim
        added += input_dim if self.dropout.rate else 0
        return kept._replace(always=kept.always + added)

    def kept_of_source(self, input_dim):
        return self._layer_attribute("kept_of_source")(input_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "layer": keras.saving.serialize_keras_object(self.layer),
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout.rate,
            "seed": self.seed,
            "residual": self.residual,
            "norm": self.norm,
            "norm_epsilon": self.norm_epsilon,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "layer": keras.saving.deserialize_keras_object(config["layer"])})
