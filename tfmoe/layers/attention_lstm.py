"""The LSTM of the decoder: its state is the query of an attention, whose context is part of its
inputs (App. E).

Axes: B batch, T steps, S source steps, D input width, M width of the source vectors, U units,
R width of the recurrent output.
"""

from typing import Literal, NamedTuple

import keras
import tensorflow as tf

from tfmoe.layers.attention import Attention
from tfmoe.layers.block import Block, Kept
from tfmoe.layers.lstm import ProjectedLSTMCell, forget_gate_ones
from tfmoe.layers.recurrence import run_steps
from tfmoe.ops.arguments import float_tensor, last_dimension, positive


class Source(NamedTuple):
    """A source to attend to.

    Attributes:
        keys: `[B, S, A]`, `attention.keys(memory)`.
        memory: `[B, S, D]` in the layer's compute dtype.
        mask: `[B, S]` bool, or `None`.
    """

    keys: tf.Tensor
    memory: tf.Tensor
    mask: tf.Tensor | None


@keras.saving.register_keras_serializable("tfmoe")
class AttentionLSTM(Block):
    """A `ProjectedLSTM` with attention: its input at each step is `[x_t, context_t]`, where the
    query of the context is the output of the previous step.

    The products with the inputs of all steps are one matrix product, and so are the keys of the
    attention. The rest is a recurrence, because the context of a step depends on the output of the
    previous step.

    Args:
        units: U, width of the memory cell.
        projection_units: R, width of the output; `None` for no projection, R = U.
        attention_units: A, width of keys and queries; `None` for R.
        attention: `"multiplicative"` (eq 22) or `"additive"` (eq 21).

    Call arguments:
        inputs: `[B, T, D]` of any numeric type. A mask that Keras attaches to them is passed on.
            Padding must follow the real steps, which it then cannot affect.
        memory: `[B, S, D]` of any numeric type, the source vectors, as wide as the inputs.
        memory_mask: `[B, S]` bool, `False` for padding.
        return_attention: whether to also return the attention weights.

    Returns:
        `[B, T, R]` in the layer's compute dtype; with `return_attention` followed by `[B, T, S]`
        float32.

    Raises:
        ValueError: an argument is out of range; in `build`, inputs and memory differ in width.

    Example:
        >>> lstm = AttentionLSTM(units=64, projection_units=16)
        >>> target, source = np.ones((8, 5, 16)), np.ones((8, 7, 16))
        >>> outputs, weights = lstm(target, source, return_attention=True)
        >>> outputs.shape, weights.shape
        (TensorShape([8, 5, 16]), TensorShape([8, 5, 7]))
    """

    is_causal = True
    needs_memory = True

    def __init__(
        self,
        units: int,
        projection_units: int | None = None,
        attention_units: int | None = None,
        attention: Literal["multiplicative", "additive"] = "multiplicative",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.supports_masking = True
        if attention_units is not None:
            attention_units = positive("attention_units", attention_units)
        self.cell = ProjectedLSTMCell(units, projection_units, name="cell", dtype=self.dtype_policy)
        self.attention = Attention(
            self.cell.output_size if attention_units is None else attention_units,
            attention,
            name="attention",
            dtype=self.dtype_policy,
        )
        self.attention_units = attention_units

    def build(self, inputs_shape, memory_shape=None):
        width, units = last_dimension(f"inputs of {self.name}", inputs_shape, 3), self.cell.units
        if memory_shape is not None:
            memory_width = last_dimension(f"memory of {self.name}", memory_shape, 3)
            if memory_width != width:
                raise ValueError(
                    f"memory of {self.name} must be as wide as its inputs, {width}, got "
                    f"{memory_width}"
                )
        self.input_spec = keras.layers.InputSpec(ndim=3, axes={-1: width})
        self.kernel = self.add_weight(
            name="kernel", shape=(width, 4 * units), initializer="glorot_uniform"
        )
        self.context_kernel = self.add_weight(
            name="context_kernel", shape=(width, 4 * units), initializer="glorot_uniform"
        )
        self.bias = self.add_weight(
            name="bias", shape=(4 * units,), initializer=forget_gate_ones(units)
        )
        self.cell.build((None, 4 * units))
        query_shape = (None, self.cell.output_size)
        self.attention.build(query_shape, None, (None, None, width))

    def initial_state(self, batch_size):
        """Returns the zero state `[r, c]`, `[B, R]` and `[B, U]`."""
        return [tf.zeros([batch_size, size], self.compute_dtype) for size in self.cell.state_size]

    def prepared(self, memory, memory_mask=None):
        """Computes the `Source` that all steps share.

        Args:
            memory: as for a call.
            memory_mask: as for a call.
        """
        memory = float_tensor(f"memory of {self.name}", memory, self.compute_dtype)
        return Source(self.attention.keys(memory), memory, memory_mask)

    def step(self, inputs, state, prepared):
        """Computes one step.

        Args:
            inputs: `[B, D]` of any numeric type.
            state: `[r, c]`.
            prepared: a `Source`.

        Returns:
            Output `[B, R]`, the new state, attention weights `[B, S]` float32.
        """
        return self._step(self._project(inputs), state, prepared)

    def _project(self, inputs):
        """Computes `inputs·W + b` for the gates, with any leading axes."""
        inputs = float_tensor(f"inputs of {self.name}", inputs, self.compute_dtype)
        # Outside of a call, as in `step`, Keras does not cast weights.
        kernel, bias = (tf.cast(weight, inputs.dtype) for weight in (self.kernel, self.bias))
        return tf.matmul(inputs, kernel) + bias

    def _step(self, z, state, source):
        """`step` for the result of `_project`, `[B, 4·U]`."""
        context, weights = self.attention(state[0], source.keys, source.memory, source.mask)
        z = z + tf.matmul(context, tf.cast(self.context_kernel, context.dtype))
        output, state = self.cell(z, state)
        return output, state, weights

    def call(self, inputs, memory, memory_mask=None, return_attention=False, training=False):
        z = tf.transpose(self._project(inputs), [1, 0, 2])
        source = self.prepared(memory, memory_mask)
        output, carry = self.initial_state(tf.shape(inputs)[0])
        attention = []
        if return_attention:
            attention = [tf.zeros(tf.shape(source.memory)[:2], tf.float32)]

        def step(z, state, _):
            z = tf.ensure_shape(z, [inputs.shape[0], 4 * self.cell.units])
            output, (_, carry), weights = self._step(z, [state[0], state[-1]], source)
            return [output, *([weights] if return_attention else []), carry], ()

        outputs, _, _ = run_steps(
            step, z, [output, *attention, carry], num_outputs=1 + len(attention)
        )
        outputs, *attention = (tf.transpose(x, [1, 0, 2]) for x in outputs)
        outputs.set_shape([*inputs.shape[:2], self.cell.output_size])
        return (outputs, *attention) if return_attention else outputs

    def compute_output_shape(self, inputs_shape, memory_shape=None):
        return (*inputs_shape[:-1], self.cell.output_size)

    def compute_output_spec(
        self, inputs, memory, memory_mask=None, return_attention=False, training=False
    ):
        outputs = keras.KerasTensor(self.compute_output_shape(inputs.shape), self.compute_dtype)
        if not return_attention:
            return outputs
        return outputs, keras.KerasTensor((*inputs.shape[:2], memory.shape[1]), "float32")

    def ops_per_timestep(self, input_dim):
        """Multiply-adds for one token, without those of the attention (the paper's count):
        `4·(2·D + R)·U`, plus `U·R` for a projection.
        """
        cell = self.cell
        projection = cell.units * cell.output_size if cell.projection_units is not None else 0
        return 4 * (2 * input_dim + cell.output_size) * cell.units + projection

    def kept_for_backward(self, input_dim, steps=0):
        """Bytes kept per position: by the cell (whose output is the query); the context, D values;
        the weights of the S source steps before (float32) and after the mask; the tanh of the
        query, A values, or with additive attention of the sums, `S·A`.
        """
        size, units = tf.as_dtype(self.compute_dtype).size, self.attention.units
        tanh = units * (steps if self.attention.kind == "additive" else 1)
        cell = self.cell.kept_for_backward(input_dim)
        return Kept(cell + size * (input_dim + tanh) + (4 + size) * steps)

    def kept_of_source(self, input_dim):
        """Bytes kept per source position: the source vector, D values; with multiplicative
        attention its key before and after scaling, `2·A`.
        """
        is_multiplicative = self.attention.kind == "multiplicative"
        num_values = input_dim + (2 * self.attention.units if is_multiplicative else 0)
        return tf.as_dtype(self.compute_dtype).size * num_values

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.cell.units,
            "projection_units": self.cell.projection_units,
            "attention_units": self.attention_units,
            "attention": self.attention.kind,
        }
