"""KerasHub's banks of experts, computed on the rows that select them.

Axes: A rows (assignments), E experts, D model, H hidden, N outputs.
"""

from collections.abc import Callable

import tensorflow as tf

from tfmoe.layers.routed import Routed
from tfmoe.ops.expert_matmul import expert_ffn, static_expert_ffn
from tfmoe.ops.expert_network import gated


class BankExperts(Routed):
    """The gated experts of a mixture, on the variables of a KerasHub bank. It is a mixin for the
    class of the bank: a call takes assignments, and the rest of the bank is unchanged.

    A subclass implements `kernels` and `hidden`. Hidden activations are computed for all rows
    together: as a part of each expert they would make the graph of a training step twice as large,
    and the step not faster.
    """

    together = 1
    recompute = False
    compute_dtype: str

    def __call__(self, tokens, assignments, training=False):
        # Not Keras' call, which checks the arguments of KerasHub's `call`.
        return self.call(tokens, assignments, training)

    def kernels(self) -> list:
        """The variables of all kernels, `[E, inputs, outputs]`; the last is `[E, H, D]`."""
        raise NotImplementedError

    def hidden(self, rows: tf.Tensor, counts: tf.Tensor, is_static: bool) -> tf.Tensor:
        """Computes the `[A, H]` inputs of the last kernel.

        Args:
            rows: `[A, D]`, in the dtype in which the bank computes.
            counts: `[E]` int32, rows of each expert.
            is_static: as for `tfmoe.layers.Experts.compute`.
        """
        raise NotImplementedError

    def output_bias(self):
        """The variable `[E, D]` that is added to the outputs, or `None`."""
        return None

    def compute(self, rows, counts, rows_per_expert=None, training=False, is_static=False):
        hidden = self.hidden(tf.cast(rows, self.compute_dtype), counts, is_static)
        return self.product(hidden, counts, is_static, self.kernels()[-1], self.output_bias())

    def product(self, rows, counts, is_static, kernel, bias=None):
        """Multiplies each row with the kernel of its expert.

        Args:
            rows: `[A, D]`, sorted by expert.
            counts: `[E]` int32, rows of each expert; the remaining rows give 0.
            is_static: as for `hidden`.
            kernel: variable `[E, D, N]`.
            bias: variable `[E, N]`, or `None`.

        Returns:
            `[A, N]`, the dtype of `rows`.
        """
        biases = None if bias is None else [self.value(bias)]
        ffn = static_expert_ffn if is_static else expert_ffn
        return ffn(rows, counts, [self.value(kernel)], biases)

    def value(self, variable) -> tf.Tensor:
        """The value of a variable, on this device, in the dtype in which the bank computes."""
        return tf.cast(tf.convert_to_tensor(variable), self.compute_dtype)

    def num_local(self) -> int:
        """The number of experts on this device."""
        return tf.convert_to_tensor(self.kernels()[0]).shape[0]

    def output_width(self, input_dim: int) -> int:
        """The width of an expert's outputs: D."""
        return input_dim

    def ops_per_row(self, input_dim: int) -> int:
        """Multiply-adds of one expert for one row."""
        return sum(kernel.shape[1] * kernel.shape[2] for kernel in self.kernels())

    def hidden_per_row(self) -> int:
        """The number of values that an expert keeps for the backward pass of a row: gate, up, the
        activation of the gate, and its product with up.
        """
        return 4 * self.kernels()[-1].shape[1]

    def dropout_per_row(self) -> int:
        """0: there is no dropout in the experts."""
        return 0


class FusedExperts(BankExperts):
    """Experts with the kernels of gate and up in one variable `[E, D, 2H]`: `(activation(x ·
    W_gate) * (x · W_up)) · W_out`.
    """

    activation: Callable

    def kernels(self):
        return [self._expert_feedforward_gate_dense, self._expert_feedforward_output_dense]

    def hidden_activation(self) -> Callable:
        """The activation of the gate."""
        return self.activation

    def hidden(self, rows, counts, is_static):
        sums = self.product(rows, counts, is_static, self.kernels()[0])
        return gated(self.hidden_activation())(sums)


class SeparateExperts(BankExperts):
    """Experts with separate kernels of gate and up, `[E, D, H]`, in this order."""

    activation: Callable

    def hidden_activation(self) -> Callable:
        """The activation of the gate."""
        return in_float32(self.activation)

    def hidden(self, rows, counts, is_static):
        gate, up, _ = self.kernels()
        activations = self.hidden_activation()(self.product(rows, counts, is_static, gate))
        return activations * self.product(rows, counts, is_static, up)


def in_float32(activation):
    """Converts an activation to one that computes in float32 and returns the dtype of its input."""

    def activate(x):
        return tf.cast(activation(tf.cast(x, tf.float32)), x.dtype)

    return activate
