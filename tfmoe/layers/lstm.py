"""The LSTM with a projection (Sak et al. 2014), used for the paper's wide LSTM layers.

Axes: B batch, S steps, D input width, U units (width of the memory cell), R width of the recurrent
output.
"""

from typing import ClassVar

import keras
import tensorflow as tf
from keras import ops

from tfmoe.distribute.static_shapes import portable_only
from tfmoe.layers.block import Block, Kept
from tfmoe.layers.initializers import independent
from tfmoe.layers.recurrence import run_steps
from tfmoe.ops.arguments import (
    Initializer,
    boolean,
    float_tensor,
    initializer,
    last_dimension,
    positive,
)


@keras.saving.register_keras_serializable("tfmoe")
class ProjectedLSTMCell(keras.layers.Layer):
    """The recurrent part of an LSTM step. Its inputs are `x·W + b` for the four gates.

    `c' = σ(f)·c + σ(i)·tanh(g)`, `h = σ(o)·tanh(c')`; the output and recurrent state is `r' = h·P`,
    or h without a projection.

    Args:
        units: U, width of the memory cell.
        projection_units: R, width of the output; `None` for no projection, R = U.
        recurrent_initializer: a Keras initializer, or a function of shape and dtype.
        projection_initializer: a Keras initializer, or a function of shape and dtype.

    Call arguments:
        inputs: `[B, 4·U]`, for i, f, g, o in this order.
        states: `[r, c]`, `[B, R]` and `[B, U]`.

    Raises:
        ValueError: an argument is out of range; in `build`, the inputs have another width.
    """

    def __init__(
        self,
        units: int,
        projection_units: int | None = None,
        recurrent_initializer: Initializer = "orthogonal",
        projection_initializer: Initializer = "glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.units = positive("units", units)
        self.projection_units = (
            None if projection_units is None else positive("projection_units", projection_units)
        )
        self.recurrent_initializer = initializer("recurrent_initializer", recurrent_initializer)
        self.projection_initializer = initializer("projection_initializer", projection_initializer)
        self.output_size = self.projection_units or self.units
        self.state_size = [self.output_size, self.units]

    def build(self, input_shape):
        width = last_dimension(f"inputs of {self.name}", input_shape)
        if width != 4 * self.units:
            raise ValueError(
                f"inputs of {self.name} must have width 4·units = {4 * self.units}, got shape "
                f"{tuple(input_shape)}"
            )
        self.input_spec = keras.layers.InputSpec(ndim=2, axes={-1: width})
        self.recurrent_kernel = self.add_weight(
            name="recurrent_kernel",
            shape=(self.output_size, 4 * self.units),
            initializer=self.recurrent_initializer,
        )
        if self.projection_units is not None:
            self.projection_kernel = self.add_weight(
                name="projection_kernel",
                shape=(self.units, self.projection_units),
                initializer=self.projection_initializer,
            )

    def call(self, inputs, states, training=False):
        inputs = float_tensor(f"inputs of {self.name}", inputs, self.compute_dtype)
        recurrent, carry = (
            float_tensor(f"states of {self.name}", state, self.compute_dtype) for state in states
        )
        z = inputs + ops.matmul(recurrent, self.recurrent_kernel)
        output, carry = update_memory(z, carry)
        if self.projection_units is not None:
            output = ops.matmul(output, self.projection_kernel)
        return output, [output, carry]

    def kept_for_backward(self, input_dim: int) -> int:
        """Bytes kept per step, for an input of width `input_dim`: the input; four gates, the cell,
        its tanh and the output, `7·U` values; the projected output.
        """
        num_values = input_dim + 7 * self.units + (self.projection_units or 0)
        return tf.as_dtype(self.compute_dtype).size * num_values

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "projection_units": self.projection_units,
            "recurrent_initializer": keras.initializers.serialize(self.recurrent_initializer),
            "projection_initializer": keras.initializers.serialize(self.projection_initializer),
        }


@keras.saving.register_keras_serializable("tfmoe")
class ProjectedLSTM(Block):
    """LSTM layer whose output, which is also the recurrent state, can be projected to a smaller
    width.

    The products of the inputs of all steps with their kernel are one matrix product before the
    recurrence. Without `projection_units` the layer computes the same as `keras.layers.LSTM`. The
    bias of the forget gate starts at 1.

    Args:
        units: U, width of the memory cell.
        projection_units: R, width of the output; `None` for no projection, R = U.
        return_sequences: whether to return the outputs of all steps or only the last.
        return_state: whether to also return the final states `[B, R]` and `[B, U]`.
        kernel_initializer: initializer of the input kernel and the projection: a Keras initializer,
            or a function of shape and dtype.
        recurrent_initializer: initializer of the recurrent kernel.

    Call arguments:
        inputs: `[B, S, D]` of any numeric type.
        mask: `[B, S]` bool; a step with `False` leaves the state unchanged.
        initial_state: `None` for zeros, or `[r, c]`.

    Returns:
        `[B, S, R]`, or `[B, R]` without `return_sequences`; with `return_state` followed by both
        states. All in the layer's compute dtype.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> lstm = ProjectedLSTM(units=64, projection_units=16, return_sequences=True)
        >>> lstm(np.ones((8, 5, 16))).shape
        TensorShape([8, 5, 16])
    """

    is_causal = True
    BLOCK_ARGUMENTS: ClassVar[dict[str, bool]] = {"return_sequences": True, "return_state": False}

    def __init__(
        self,
        units: int,
        projection_units: int | None = None,
        return_sequences: bool = False,
        return_state: bool = False,
        kernel_initializer: Initializer = "glorot_uniform",
        recurrent_initializer: Initializer = "orthogonal",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.kernel_initializer = initializer("kernel_initializer", kernel_initializer)
        cell = ProjectedLSTMCell(
            units,
            projection_units,
            recurrent_initializer=recurrent_initializer,
            projection_initializer=independent(self.kernel_initializer),
            name="cell",
            dtype=self.dtype_policy,
        )
        self.rnn = keras.layers.RNN(
            cell,
            return_sequences=boolean("return_sequences", return_sequences),
            return_state=boolean("return_state", return_state),
            name="rnn",
            dtype=self.dtype_policy,
        )

    @property
    def cell(self) -> ProjectedLSTMCell:
        """The `ProjectedLSTMCell` that computes a step."""
        return self.rnn.cell

    def build(self, input_shape):
        input_dim = last_dimension(f"inputs of {self.name}", input_shape, rank=3)
        units = self.cell.units
        self.input_spec = keras.layers.InputSpec(ndim=3, axes={-1: input_dim})
        self.kernel = self.add_weight(
            name="kernel", shape=(input_dim, 4 * units), initializer=self.kernel_initializer
        )
        self.bias = self.add_weight(
            name="bias", shape=(4 * units,), initializer=forget_gate_ones(units)
        )
        self.rnn.build((None, None, 4 * units))

    def call(self, inputs, mask=None, initial_state=None, training=False):
        inputs = float_tensor(f"inputs of {self.name}", inputs, self.compute_dtype)
        z = ops.add(ops.matmul(inputs, self.kernel), self.bias)
        if portable_only():
            return self._portable(z, mask, initial_state)
        return self.rnn(z, mask=mask, initial_state=initial_state, training=training)

    def _portable(self, z, mask=None, initial_state=None):
        """`rnn` for other runtimes: Keras' loop has tensor arrays, which LiteRT lacks."""
        state = self.initial_state(tf.shape(z)[0]) if initial_state is None else initial_state
        # The output before the first step that is not masked is 0.
        state = [self.initial_state(tf.shape(z)[0])[0], *state]
        sequences = {"z": tf.transpose(z, [1, 0, 2])}
        if mask is not None:
            sequences["mask"] = tf.transpose(tf.cast(mask, tf.bool))

        def step(inputs, state, _):
            output, new_state = self.cell(inputs["z"], state[1:])
            new_state = [output, *new_state]
            if mask is not None:
                is_real = tf.expand_dims(inputs["mask"], 1)
                pairs = zip(new_state, state, strict=True)
                new_state = [tf.where(is_real, new, old) for new, old in pairs]
            return new_state, ()

        (outputs,), (output, *state), _ = run_steps(step, sequences, state)
        outputs = tf.transpose(outputs, [1, 0, 2]) if self.rnn.return_sequences else output
        return (outputs, *state) if self.rnn.return_state else outputs

    def initial_state(self, batch_size):
        """Returns the zero state `[r, c]`, `[B, R]` and `[B, U]`."""
        return [ops.zeros((batch_size, size), self.compute_dtype) for size in self.cell.state_size]

    def step(self, inputs, state):
        inputs = float_tensor(f"inputs of {self.name}", inputs, self.compute_dtype)
        # Outside of a call Keras does not cast weights.
        kernel, bias = (ops.cast(weight, inputs.dtype) for weight in (self.kernel, self.bias))
        return self.cell(ops.add(ops.matmul(inputs, kernel), bias), state)

    def compute_mask(self, inputs, mask=None):
        return self.rnn.compute_mask(inputs, mask)

    def compute_output_shape(self, input_shape):
        return self.rnn.compute_output_shape(input_shape)

    def ops_per_timestep(self, input_dim):
        """Multiply-adds for one token: `4·(D + R)·U`, plus `U·R` for a projection."""
        cell = self.cell
        projection = cell.units * cell.output_size if cell.projection_units is not None else 0
        return 4 * (input_dim + cell.output_size) * cell.units + projection

    def kept_for_backward(self, input_dim, steps=0):
        return Kept(self.cell.kept_for_backward(input_dim))

    def get_config(self):
        cell = self.cell
        return {
            **super().get_config(),
            "units": cell.units,
            "projection_units": cell.projection_units,
            "return_sequences": self.rnn.return_sequences,
            "return_state": self.rnn.return_state,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "recurrent_initializer": keras.initializers.serialize(cell.recurrent_initializer),
        }


def update_memory(z, carry):
    """Computes `c' = σ(f)·c + σ(i)·tanh(g)` and `h = σ(o)·tanh(c')`.

    Args:
        z: `[B, 4·U]`, the inputs of i, f, g, o.
        carry: `[B, U]`, c.

    Returns:
        h and c', `[B, U]`.
    """
    i, f, g, o = ops.split(z, 4, axis=-1)
    carry = ops.sigmoid(f) * carry + ops.sigmoid(i) * ops.tanh(g)
    return ops.sigmoid(o) * ops.tanh(carry), carry


def forget_gate_ones(units):
    """An initializer of the `[4·U]` bias: 1 for the forget gate, 0 for the others."""

    def initializer(shape, dtype=None):
        return ops.repeat(ops.convert_to_tensor([0, 1, 0, 0], dtype), units)

    return initializer
