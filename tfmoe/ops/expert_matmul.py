"""Feed-forward networks of which every row has its own expert's weights.

Axes: A rows (assignments), E experts, D model, N outputs, C rows of each expert where all have
equally many.

The rows arrive sorted by expert, so an expert's rows are one slice, a view without a copy, and its
work is a few plain matrix products, whatever the load of the others. The gradient is written by
hand: differentiating slices of a weight stack automatically would make a full-size gradient per
expert, and products can be chosen that run faster than those of the automatic gradient.
"""

import tensorflow as tf

from tfmoe.ops.expert_derivatives import (
    differentiable,
    has_tangents,
    in_vectorized_loop,
    padded_ffn,
    padded_gradient,
)
from tfmoe.ops.expert_network import Network
from tfmoe.ops.expert_ways import Inputs, Outputs, looped, unrolled, way_through


def expert_ffn(
    x, counts, kernels, biases=None, activation=tf.nn.relu, recompute=False, training=True
):
    """Runs each row through its expert: `x_{i+1} = activation(x_i · kernel_i[e] + bias_i[e])`, the
    last layer without the activation.

    It has derivatives of every order, in reverse and in forward mode. Forward mode, Jacobians and,
    beyond `UNROLLED_EXPERTS` experts, higher derivatives compute all experts together, each on C
    rows. Two combinations fail inside TensorFlow: up to `UNROLLED_EXPERTS` experts, the vectorized
    Jacobian of a gradient if an expert has no rows (use `experimental_use_pfor=False`); beyond
    them, a `ForwardAccumulator` around a `tf.function` (put it inside the function).

    Args:
        x: `[A, D]` floating point, rows sorted by expert.
        counts: `[E]` int32, rows of each expert; their sum is at most A. The rows after them belong
            to no expert and are not computed.
        kernels: one `[E, inputs, outputs]` stack per layer, the type of `x`.
        biases: `None`, or one `[E, outputs]` stack per layer.
        activation: of the hidden layers; must act on each element by itself, and have no weights of
            its own.
        recompute: keeps no hidden activations for the backward pass: they are computed again, one
            expert at a time (App. D).

    Returns:
        `[A, N]`, like `x`; 0 in the rows that belong to no expert. The gradients of the stacks are
        dense tensors, 0 for experts without rows.

    Raises:
        ValueError: a gradient is taken and `activation` reads trainable variables.
    """
    biases = biases or []
    num_experts, depth = kernels[0].shape[0], len(kernels)
    if num_experts == 0:
        return without_experts(x, kernels, biases)
    network = Network(depth, bool(biases), activation, training and not recompute)
    if has_tangents([x, *kernels, *biases]):
        return padded_ffn(network, counts, x, [*kernels, *biases])
    through_experts = way_through(num_experts)
    kept_widths = [kernel.shape[2] for kernel in kernels[:-1]] if network.keeps_hidden else []

    @tf.custom_gradient
    def ffn(x, *stacks):
        inputs, outputs = Inputs([x], [], stacks), Outputs(kernels[-1].shape[2], kept_widths, [])
        y, kept, _ = through_experts(network.forward, counts, inputs, outputs, recompute)

        def backward(x, dy, *stacks):
            inputs = Inputs([x, dy], kept, stacks)
            outputs = Outputs(x.shape[1], [], [stack.shape for stack in stacks])
            dx, _, dstacks = through_experts(network.backward, counts, inputs, outputs, recompute)
            return dx, *dstacks

        def gradient(dy, variables=None):
            refuse_variables(variables)
            looped_tensors = [x, dy, *stacks] if through_experts is looped else []
            if in_vectorized_loop() or has_tangents(looped_tensors):
                return padded_gradient(network, counts, x, dy, *stacks)
            if through_experts is unrolled:
                return backward(x, dy, *stacks)
            return differentiable(backward, network, counts)(x, dy, *stacks)

        return y, gradient

    return ffn(x, *kernels, *biases)


def equal_expert_ffn(x, kernels, biases=None, activation=tf.nn.relu, recompute=False):
    """`expert_ffn` where every expert has equally many rows: one batched product for each layer.

    A training step takes 0.75 (E = 64, C = 128, D = 48, H = 96) to 1.0 (16, 512, 128, 256) times as
    long as by `expert_ffn`, on one thread.

    Args:
        x: `[E, C, D]` floating point.
        kernels, biases, activation: as for `expert_ffn`.
        recompute: keeps no hidden activations for the backward pass: they are computed again, for
            all experts together.

    Returns:
        `[E, C, N]`, like `x`.
    """
    depth = len(kernels)

    def ffn(x, *stacks):
        for i in range(depth):
            x = tf.matmul(activation(x) if i else x, stacks[i])
            x = x + stacks[depth + i][:, None, :] if biases else x
        return x

    return (tf.recompute_grad(ffn) if recompute else ffn)(x, *kernels, *(biases or []))


def grouped_matmul(x, counts, kernel):
    """Multiplies each row with its expert's matrix.

    Args:
        x: `[A, D]` floating point, rows sorted by expert.
        counts: `[E]` int32, rows of each expert; rows after them give 0.
        kernel: `[E, D, N]`, the type of `x`.

    Returns:
        `[A, N]`, like `x`.
    """
    return expert_ffn(x, counts, [kernel])


def without_experts(x, kernels, biases):
    """Zeros, through which gradients flow: for a device without experts."""
    zero = tf.add_n([tf.reduce_sum(stack) for stack in (*kernels, *biases)])
    return zero + tf.matmul(x, tf.zeros([kernels[0].shape[1], kernels[-1].shape[2]], x.dtype))


def refuse_variables(variables):
    """Raises a `ValueError` if an activation read variables: they would get no gradient."""
    if variables:
        raise ValueError(
            f"activation reads the trainable variables {[v.name for v in variables]}, for which "
            "expert_ffn has no gradient: use an activation without weights, such as tf.nn.relu"
        )
