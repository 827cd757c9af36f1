"""Feed-forward experts: each row is multiplied with the weights of its expert.

Axes: A rows (assignments), E experts, D model, N outputs, C rows of each expert if all have the
same number.

The rows are sorted by expert, so the rows of an expert are one slice, a view without a copy. Each
expert computes a few plain matrix products, whatever the load of the other experts. The gradient is
written by hand: the automatic gradient of a slice of a weight stack is a full-size tensor for every
expert, and its products are not the fastest ones.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

from tfmoe.ops.copied_weights import copied_ffn, is_fast, weights_of
from tfmoe.ops.expert_derivatives import (
    differentiable,
    has_tangents,
    in_vectorized_loop,
    padded_ffn,
    padded_gradient,
    reject_variables,
)
from tfmoe.ops.expert_dropout import NO_DROPOUT, HiddenDropout
from tfmoe.ops.expert_network import Network, by_rows
from tfmoe.ops.expert_runners import Inputs, Outputs, runner_for, unrolled
from tfmoe.ops.packed_experts import packed_ffn, packed_kernels
from tfmoe.ops.padded_rows import blocks


def expert_ffn(
    x: tf.Tensor,
    counts: tf.Tensor,
    kernels: Sequence,
    biases: Sequence | None = None,
    activation: Callable = tf.nn.relu,
    recompute: bool = False,
    training: bool = True,
    dropout: HiddenDropout = NO_DROPOUT,
) -> tf.Tensor:
    """Runs each row through its expert: `x_{i+1} = activation(x_i · kernel_i[e] + bias_i[e])`, the
    last layer without the activation.

    Derivatives of every order exist, in reverse and in forward mode. Forward mode, Jacobians and,
    with more than `UNROLLED_EXPERTS` experts, higher derivatives compute all experts together, each
    on as many rows as the expert with the most rows. Two combinations fail inside TensorFlow: with
    up to `UNROLLED_EXPERTS` experts, the vectorized Jacobian of a gradient if an expert has no rows
    (use `experimental_use_pfor=False`); with more, a `ForwardAccumulator` around a `tf.function`
    (create it inside the function).

    Args:
        x: `[A, D]` floating point, rows sorted by expert.
        counts: `[E]` int32, rows of each expert; their sum is at most A. The remaining rows belong
            to no expert and are not computed.
        kernels: one `[E, inputs, outputs]` stack per layer, the dtype of `x`. With a `gated`
            activation the inputs of the next layer are half of the outputs.
        biases: `None`, or one `[E, outputs]` stack per layer.
        activation: the activation of the hidden layers, without weights. It must be elementwise, or
            `tfmoe.ops.expert_network.gated` of an elementwise one.
        recompute: keeps no hidden activations for the backward pass, which computes them again,
            one expert at a time (App. D).
        training: whether hidden activations are kept for the backward pass.
        dropout: `HiddenDropout` with `[A, H]` for each hidden layer.

    Returns:
        `[A, N]`, the dtype of `x`; 0 in rows that belong to no expert. The gradients of the stacks
        are dense tensors, 0 for experts without rows.

    Raises:
        ValueError: a gradient is taken and `activation` reads trainable variables.
    """
    biases = biases or []
    num_experts, depth = kernels[0].shape[0], len(kernels)
    if num_experts == 0:
        return zero_outputs(x, [*kernels, *biases], kernels[-1].shape[2])
    keeps_hidden, keeps = training and not recompute, list(dropout.keeps)
    network = Network(depth, bool(biases), by_rows(activation), keeps_hidden, dropout.rate)
    if packed := packed_kernels(kernels):
        return packed_ffn(network._replace(keeps_hidden=False), counts, x, packed, biases)
    if has_tangents([x, *kernels, *biases]):
        return padded_ffn(network, counts, x, [*kernels, *biases], keeps)
    if tf.executing_eagerly() and is_fast(x.shape[0], [*kernels, *biases]):
        return copied_ffn(network, counts, x, [*kernels, *biases], keeps)
    run_experts = runner_for(num_experts, recompute)
    kept_widths = [kernel.shape[2] for kernel in kernels[:-1]] if keeps_hidden else []

    @tf.custom_gradient
    def ffn(x, *stacks):
        inputs = Inputs([x, *keeps], [], stacks)
        outputs = Outputs(kernels[-1].shape[2], kept_widths, [])
        y, kept, _ = run_experts(network.forward, counts, inputs, outputs, recompute)

        def backward(x, dy, *stacks):
            inputs = Inputs([x, dy, *keeps], kept, stacks)
            outputs = Outputs(x.shape[1], [], [stack.shape for stack in stacks])
            dx, _, dstacks = run_experts(network.backward, counts, inputs, outputs, recompute)
            return dx, *dstacks

        def gradient(dy, variables=None):
            reject_variables(variables)
            loop_tensors = [x, dy, *stacks] if run_experts is not unrolled else []
            if in_vectorized_loop() or has_tangents(loop_tensors):
                return padded_gradient(network, counts, keeps, x, dy, *stacks)
            if run_experts is unrolled:
                return backward(x, dy, *stacks)
            return differentiable(backward, network, counts, keeps)(x, dy, *stacks)

        return y, gradient

    return ffn(x, *kernels, *biases)


def equal_expert_ffn(
    x: tf.Tensor,
    kernels: Sequence,
    biases: Sequence | None = None,
    activation: Callable = tf.nn.relu,
    recompute: bool = False,
    dropout: HiddenDropout = NO_DROPOUT,
) -> tf.Tensor:
    """`expert_ffn` for experts with the same number of rows: one batched product for each layer.

    On one thread, a training step takes 0.75 (E = 64, C = 128, D = 48, H = 96) to 1.0 (16, 512,
    128, 256) times as long as with `expert_ffn`.

    Args:
        x: `[E, C, D]` floating point.
        kernels: as for `expert_ffn`.
        biases: as for `expert_ffn`.
        activation: as for `expert_ffn`.
        recompute: keeps no hidden activations for the backward pass, which computes them again,
            for all experts together.
        dropout: `HiddenDropout` with `[E, C, H]` for each hidden layer.

    Returns:
        `[E, C, N]`, the dtype of `x`.
    """
    network = Network(len(kernels), bool(biases), activation, False, dropout.rate)

    def ffn(x, *stacks):
        return network.batched(x, stacks, dropout.keeps)

    return (tf.recompute_grad(ffn) if recompute else ffn)(x, *kernels, *(biases or []))


def static_expert_ffn(
    x: tf.Tensor,
    counts: tf.Tensor,
    kernels: Sequence,
    biases: Sequence | None = None,
    activation: Callable = tf.nn.relu,
    recompute: bool = False,
    dropout: HiddenDropout = NO_DROPOUT,
) -> tf.Tensor:
    """`expert_ffn` without shapes that depend on `counts`, for XLA and other runtimes: rows are
    computed in blocks of one size, each with a copy of the weights of its expert.

    The number of rows of an expert has no limit. With `B = max(A // E, 1)` rows in a block there
    are at most `A / B + E` blocks: with few rows, one for each; with many, 2 to 2.5 times as many
    as experts. So up to 2 times the products of `expert_ffn` are computed, and the weights are
    copied up to 2.5 times.

    Args:
        x: `[A, D]` floating point, A at least 1, rows sorted by expert.
        counts: as for `expert_ffn`.
        kernels: as for `expert_ffn`.
        biases: as for `expert_ffn`.
        activation: as for `expert_ffn`.
        recompute: as for `equal_expert_ffn`.
        dropout: as for `expert_ffn`.

    Returns:
        `[A, N]`, the dtype of `x`; 0 in rows that belong to no expert.
    """
    padded, experts = blocks(counts, tf.shape(x)[0])
    stacks = [weights_of(stack, experts) for stack in [*kernels, *(biases or [])]]
    depth = len(kernels)
    dropout = dropout._replace(keeps=[padded.pad(keep) for keep in dropout.keeps])
    y = equal_expert_ffn(
        padded.pad(x), stacks[:depth], stacks[depth:], activation, recompute, dropout
    )
    return padded.unpad(y)


def grouped_matmul(
    x: tf.Tensor, counts: tf.Tensor, kernel: tf.Tensor, is_static: bool = False
) -> tf.Tensor:
    """Multiplies each row with the matrix of its expert.

    Args:
        x: `[A, D]` floating point, rows sorted by expert.
        counts: `[E]` int32, rows of each expert; the remaining rows give 0.
        kernel: `[E, D, N]`, the dtype of `x`.
        is_static: whether no shape may depend on `counts`.

    Returns:
        `[A, N]`, the dtype of `x`.
    """
    return (static_expert_ffn if is_static else expert_ffn)(x, counts, [kernel])


def zero_outputs(x, weights, width):
    """Zeros `[A, N]` that depend on `x` and the weights, whose gradients are then 0 and not `None`.
    Either there are no experts on this device, or no rows.

    Args:
        x: `[A, D]`.
        weights: list of tensors without elements; or of any tensors, if A = 0.
        width: N.
    """
    zero = tf.add_n([tf.cast(tf.reduce_sum(weight), x.dtype) for weight in weights])
    return zero + tf.matmul(x, tf.zeros([x.shape[1], width], x.dtype))
