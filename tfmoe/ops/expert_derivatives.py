"""Derivatives of experts beyond the gradient that is written by hand.

Axes: A rows (assignments), E experts, D model, N outputs, C rows of the expert that has the most.

Three kinds of derivatives cannot go that way: derivatives of the loop's gradient, forward mode, and
gradients that TensorFlow vectorizes for a Jacobian. They go through `padded_ffn`, which consists of
ordinary operations, is slower, and agrees to rounding.
"""

import re

import tensorflow as tf

ZERO = tf.UnconnectedGradients.ZERO


def padded_ffn(network, counts, x, stacks):
    """`expert_ffn` by ordinary operations, which TensorFlow can differentiate in every way.

    All experts run together, each on C rows: its own, and its first again where it has fewer.
    """
    place = tf.range(tf.maximum(tf.reduce_max(counts), 1))
    is_used = place < counts[:, None]
    starts = tf.cumsum(counts, exclusive=True)
    rows = tf.gather(
        tf.pad(x, [[0, 1], [0, 0]]), starts[:, None] + tf.where(is_used, place, 0)
    )  # the row of padding is for experts without rows after the last row
    parameters = [*stacks[: network.depth], *(bias[:, None] for bias in stacks[network.depth :])]
    y = network.layer_sums(rows, parameters)[-1]
    y = tf.boolean_mask(y, is_used)
    return tf.pad(y, [[0, tf.shape(x)[0] - tf.shape(y)[0]], [0, 0]])


def padded_gradient(network, counts, x, dy, *stacks):
    """The gradient of `padded_ffn`: of `x` and of the stacks."""
    with tf.GradientTape() as tape:
        tape.watch([x, *stacks])
        y = padded_ffn(network, counts, x, stacks)
    return tape.gradient(y, [x, *stacks], dy, ZERO)


def differentiable(backward, network, counts):
    """`backward(x, dy, *stacks)` with derivatives: those of `padded_gradient`."""

    @tf.custom_gradient
    def first_order(*tensors):
        def gradient(*upstream):
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                gradients = padded_gradient(network, counts, *tensors)
            return tape.gradient(gradients, tensors, upstream, ZERO)

        return backward(*tensors), gradient

    return first_order


def has_tangents(tensors):
    """Whether a `tf.autodiff.ForwardAccumulator` follows one of the tensors: it asks for a gradient
    as soon as an operation is recorded.
    """
    asked = []

    @tf.custom_gradient
    def probe(*tensors):
        def gradient(_):
            asked.append(True)
            return [None] * len(tensors)

        return tensors[0], gradient

    if tensors:
        probe(*tensors)
    return bool(asked)


def in_vectorized_loop():
    """Whether TensorFlow will vectorize what is being traced, as `tf.GradientTape.jacobian` does:
    it traces under this name. It fails on slices without rows and on a loop with arrays.
    """
    return re.search(r"(^|/)loop_body(_\d+)?(/|$)", tf.get_current_name_scope()) is not None
