"""KerasHub's banks of experts, computed on the rows that select them.

Axes: A rows (assignments), E experts, D model, H hidden.
"""

from collections.abc import Callable

import keras
import tensorflow as tf

from tfmoe.layers.routed import Routed
from tfmoe.ops.expert_matmul import expert_ffn, grouped_matmul
from tfmoe.ops.expert_network import gated


class BankExperts(Routed):
    """The experts of a mixture, on the variables of a KerasHub bank. It is a mixin for the class of
    the bank: a call takes assignments, and the rest of the bank is unchanged.

    A subclass implements `compute` and `stacks`.
    """

    together = 1
    recompute = False

    def __call__(self, tokens, assignments, training=False):
        # Not Keras' call: it has the signature of KerasHub's call.
        return self.call(tokens, assignments, training)

    @property
    def bank(self) -> keras.Layer:
        """The KerasHub layer with the variables."""
        return self

    def stacks(self) -> list:
        """The variables of the bank's kernels, `[E, inputs, outputs]`."""
        raise NotImplementedError

    def hidden_per_row(self) -> int:
        """The number of values that an expert keeps for the backward pass of a row."""
        return 2 * self.stacks()[-1].shape[1]

    def ops_per_row(self, input_dim: int) -> int:
        """Multiply-adds of one expert for one row."""
        return sum(stack.shape[1] * stack.shape[2] for stack in self.stacks())

    def dropout_per_row(self) -> int:
        """0: there is no dropout in the experts."""
        return 0

    def num_local(self) -> int:
        """The number of experts on this device."""
        return tf.convert_to_tensor(self.stacks()[0]).shape[0]

    def values(self, *variables) -> list[tf.Tensor]:
        """The values of variables in the dtype in which the bank computes."""
        dtype = self.bank.compute_dtype
        return [tf.cast(tf.convert_to_tensor(variable), dtype) for variable in variables]


class FusedExperts(BankExperts):
    """Gated experts with the kernels of gate and up in one stack `[E, D, 2H]`: `(activation(x ·
    W_gate) * (x · W_up)) · W_out`.
    """

    def stacks(self):
        return [self._expert_feedforward_gate_dense, self._expert_feedforward_output_dense]

    def hidden_activation(self) -> Callable:
        """The activation of the gate."""
        return self.activation

    def compute(self, rows, counts, rows_per_expert=None, training=False):
        kernels = self.values(*self.stacks())
        rows, activation = tf.cast(rows, kernels[0].dtype), gated(self.hidden_activation())
        return expert_ffn(rows, counts, kernels, activation=activation, training=training)


class SeparateExperts(BankExperts):
    """Gated experts with separate kernels of gate and up, `[E, D, H]`."""

    def hidden_activation(self) -> Callable:
        """The activation of the gate."""
        return in_float32(self.activation)

    def hidden_per_row(self):
        return 3 * self.stacks()[-1].shape[1]

    def compute(self, rows, counts, rows_per_expert=None, training=False):
        gate, up, output = self.values(*self.stacks())
        rows = tf.cast(rows, gate.dtype)
        hidden = self.hidden_activation()(grouped_matmul(rows, counts, gate))
        hidden *= grouped_matmul(rows, counts, up)
        return grouped_matmul(hidden, counts, output)


def in_float32(activation):
    """Converts an activation to one that computes in float32 and returns the dtype of its input."""

    def activate(x):
        return tf.cast(activation(tf.cast(x, tf.float32)), x.dtype)

    return activate
