"""The feed-forward network of one expert, and its gradient.

Axes: E experts, C rows of each expert, D model, H hidden, N outputs, M rows of one expert.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tfmoe.ops.expert_dropout import drop
from tfmoe.ops.packed_weights import multiply

# Kernels with at least this many elements multiply with their transpose as a batch of one.
LARGE_KERNEL = 2**18
ZERO = tf.UnconnectedGradients.ZERO


class Network(NamedTuple):
    """The feed-forward network of one expert.

    Its `parameters` are `depth` kernels, followed by `depth` biases if `use_bias`. `forward` and
    `backward` are the steps that a runner of `tfmoe.ops.expert_runners` calls for each expert, or
    for all of them with one more leading axis. `keeps` are those of
    `tfmoe.ops.expert_dropout.HiddenDropout`, for the rows of the expert.
    """

    depth: int
    use_bias: bool
    activation: Callable
    keeps_hidden: bool
    dropout_rate: float = 0.0

    def layer_sums(self, rows, parameters, keeps=()):
        """Computes `x_i · kernel_i + bias_i` of every layer, for the `[M, D]` rows of an expert."""
        sums = []
        for i in range(self.depth):
            inputs = self.layer_inputs(i, rows, sums, keeps)
            product = multiply(inputs, parameters[i])
            sums.append(
                product + parameters[self.depth + i][..., None, :] if self.use_bias else product
            )
        return sums

    def layer_inputs(self, i, rows, sums, keeps):
        """The inputs of layer i: the rows, or the hidden activations after dropout."""
        if i == 0:
            return rows
        activations = self.activation(sums[i - 1])
        return drop(activations, keeps[i - 1], self.dropout_rate) if keeps else activations

    def batched(self, rows, stacks, keeps=()):
        """Computes all experts together: `[E, C, D]` rows to `[E, C, N]`."""
        return self.layer_sums(rows, stacks, keeps)[-1]

    def forward(self, rows, _, parameters):
        """Computes the outputs for `[rows, *keeps]`; keeps the sums of the hidden layers."""
        rows, *keeps = rows
        *hidden, y = self.layer_sums(rows, parameters, keeps)
        return y, hidden if self.keeps_hidden else [], []

    def backward(self, rows, hidden, parameters):
        """Computes the gradients of the rows and of the parameters from `[rows, dy, *keeps]`."""
        rows, dsum, *keeps = rows
        if not self.keeps_hidden:
            hidden = self.layer_sums(rows, parameters, keeps)[:-1]
        dkernels, dbiases = [None] * self.depth, [None] * self.depth
        for i in reversed(range(self.depth)):
            with tf.GradientTape() as tape:
                tape.watch(hidden[i - 1] if i else rows)
                inputs = self.layer_inputs(i, rows, hidden, keeps)
            dkernels[i] = tf.matmul(inputs, dsum, transpose_a=True)
            dbiases[i] = tf.reduce_sum(dsum, axis=-2)
            dsum = matmul_transposed(dsum, parameters[i])
            if i:
                dsum = tape.gradient(inputs, hidden[i - 1], dsum, ZERO)
        return dsum, [], dkernels + dbiases if self.use_bias else dkernels


def by_rows(activation):
    """Converts an activation to one that gets `[M, H]` of all sums `[..., H]`, since some Keras
    layers accept only that.
    """

    def activate(sums):
        if sums.shape.rank == 2:
            return activation(sums)
        activations = activation(tf.reshape(sums, [-1, sums.shape[-1]]))
        width = activations.shape[-1] if activations.shape.rank else None
        shape = tf.concat([tf.shape(sums)[:-1], tf.shape(activations)[-1:]], axis=0)
        activations = tf.reshape(activations, shape)
        activations.set_shape([*sums.shape[:-1], width])  # forward mode has no `tf.ensure_shape`
        return activations

    return activate


def gated(activation):
    """Converts an activation to that of a gated layer: `activation(x · W_gate) * (x · W_up)`
    (Shazeer 2020, "GLU Variants Improve Transformer").

    With silu the layer is known as SwiGLU, with gelu as GEGLU, with relu as ReGLU, with sigmoid as
    GLU.

    Args:
        activation: a function of one tensor, elementwise.

    Returns:
        A function of the sums `[..., 2H]` of a layer with the kernel `[W_gate, W_up]`. It returns
        `[..., H]`.
    """

    def activate(sums):
        gate, up = tf.split(sums, 2, axis=-1)
        return activation(gate) * up

    return activate


def matmul_transposed(x, kernel):
    """`x · kernelᵀ`: `[M, N]` and `[D, N]` to `[M, D]`.

    For a large kernel this is a batched product with a batch of one. On a CPU it runs 1.4 times
    (M = 128) to 2.2 times (M = 16) as fast as the plain product with a transposed second operand.
    For a small kernel the two reshapes would cost more than this saves.
    """
    if kernel.shape.rank > 2 or kernel.shape.num_elements() < LARGE_KERNEL:
        return tf.matmul(x, kernel, transpose_b=True)
    return tf.matmul(x[None], kernel[None], transpose_b=True)[0]
