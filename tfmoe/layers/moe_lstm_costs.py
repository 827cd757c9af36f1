"""The operations, memory and traffic of `MoELSTM`.

Axes: S steps, K experts per token, E experts, D input width, U units.
"""

import math

import tensorflow as tf

from tfmoe.layers.block import Kept
from tfmoe.layers.mixture_layer import MixtureLayer


class MoELSTMCosts(MixtureLayer):
    """Base class of `MoELSTM`, which sets the attributes and documents them."""

    num_experts: int
    units: int
    mixture_of: str
    gate_from: str
    recompute: bool

    @property
    def runs_at_once(self):
        """Whether the experts compute all steps before the loop."""
        return self.mixture_of == self.gate_from == "input"

    def ops_per_timestep(self, input_dim):
        """Multiply-adds for one token: `K·(D + U)·4U` and the gate; with `mixture_of="input"`
        `(K·D + U)·4U` and the gate.
        """
        width = self.gate.num_selected * self.expert_width(input_dim)
        width += self.units if self.mixture_of == "input" else 0
        return width * 4 * self.units + self.gate_ops_per_timestep(input_dim)

    def gate_ops_per_timestep(self, input_dim):
        return self.gate.ops_per_timestep(self.gate_width(input_dim))

    def gate_width(self, input_dim):
        """The width of the gate's input."""
        return input_dim + (self.units if self.gate_from == "state" else 0)

    def expert_width(self, input_dim):
        """The width of an expert's input."""
        return input_dim + (self.units if self.mixture_of == "both" else 0)

    def row_widths(self, input_dim):
        return self.expert_width(input_dim), 4 * self.units

    def bytes_sent(self, input_dim, tokens, devices):
        """As for `MoE` if the experts compute all steps at once. Otherwise a device sends its
        matrices to all devices, and their gradients to the devices of the matrices.
        """
        if self.runs_at_once:
            return super().bytes_sent(input_dim, tokens, devices)
        inputs, outputs = self.row_widths(input_dim)
        numbers = 2 * self.num_experts * inputs * outputs
        return -(-numbers * tf.as_dtype(self.compute_dtype).size * (devices - 1) // devices)

    def kept_for_backward(self, input_dim, steps=0):
        """Bytes kept per position: the input; by the gate; the rows sent to experts and their
        results; four gates, the cell, its tanh and the output, `7·U` values.

        With recomputation, what the loop keeps is reduced to the states at the ends of segments of
        L = ⌈√S⌉ steps, and to one segment in full while the backward pass computes it again: 1/L
        of it for a position. Both are left out if S is not known.

        Args:
            input_dim: D.
            steps: S, or 0.
        """
        size, units = tf.as_dtype(self.compute_dtype).size, self.units
        gate = self.gate.kept_for_backward(self.gate_width(input_dim))
        rows = size * self.gate.num_selected * sum(self.row_widths(input_dim))
        outside = size * input_dim
        outside += gate if self.gate_from == "input" else 0
        outside += rows if self.runs_at_once else 0
        total = size * (input_dim + 7 * units) + gate + rows
        always = outside
        if steps:
            always += (2 * size * units + total - outside) // (math.isqrt(steps - 1) + 1)
        return Kept(min(always, total), max(total - always, 0), self.recompute)
