"""Derivatives of experts that the hand-written gradient does not cover.

Axes: A rows (assignments), E experts, D model, N outputs, C rows of the expert with the most rows.

There are three: derivatives of the loop's gradient, forward mode, and gradients that TensorFlow
vectorizes for a Jacobian. They use `padded_ffn`, which consists of ordinary operations. It is
slower, and its results agree up to rounding.
"""

import re

import tensorflow as tf

ZERO = tf.UnconnectedGradients.ZERO


def padded_ffn(network, counts, x, stacks, keeps=()):
    """`expert_ffn` with ordinary operations, for which TensorFlow has all derivatives.

    All experts run together, each on C rows; an expert with fewer rows repeats its first row.
    """
    offsets = tf.range(tf.maximum(tf.reduce_max(counts), 1))
    is_used = offsets < counts[:, None]
    starts = tf.cumsum(counts, exclusive=True)
    index = starts[:, None] + tf.where(is_used, offsets, 0)
    # An expert without rows can start behind the last row: one row of padding is there for it.
    rows, *keeps = (tf.gather(tf.pad(each, [[0, 1], [0, 0]]), index) for each in (x, *keeps))
    y = tf.boolean_mask(network.batched(rows, stacks, keeps), is_used)
    return tf.pad(y, [[0, tf.shape(x)[0] - tf.shape(y)[0]], [0, 0]])


def padded_gradient(network, counts, keeps, x, dy, *stacks):
    """The gradient of `padded_ffn` with respect to `x` and the stacks."""
    with tf.GradientTape() as tape:
        tape.watch([x, *stacks])
        y = padded_ffn(network, counts, x, stacks, keeps)
    return tape.gradient(y, [x, *stacks], dy, ZERO)


def differentiable(backward, network, counts, keeps):
    """Wraps `backward(x, dy, *stacks)` so that its derivatives are those of `padded_gradient`."""

    @tf.custom_gradient
    def first_order(*tensors):
        def gradient(*upstream):
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                gradients = padded_gradient(network, counts, keeps, *tensors)
            return tape.gradient(gradients, tensors, upstream, ZERO)

        return backward(*tensors), gradient

    return first_order


def has_tangents(tensors):
    """Whether a `tf.autodiff.ForwardAccumulator` watches one of the tensors.

    An accumulator requests the gradient of an operation as soon as the operation is recorded.
    """
    requests = []

    @tf.custom_gradient
    def probe(*tensors):
        def gradient(_):
            requests.append(True)
            return [None] * len(tensors)

        return tensors[0], gradient

    if tensors:
        probe(*tensors)
    return bool(requests)


def in_vectorized_loop():
    """Whether TensorFlow will vectorize the traced operations, as `tf.GradientTape.jacobian` does.

    It traces them in a name scope `loop_body`. Vectorization fails on slices without rows and on a
    loop with arrays.
    """
    return re.search(r"(^|/)loop_body(_\d+)?(/|$)", tf.get_current_name_scope()) is not None


def reject_variables(variables):
    """Raises a `ValueError` if an activation read variables, which would get no gradient."""
    if variables:
        raise ValueError(
            f"activation reads the trainable variables {[v.name for v in variables]}, for which "
            "expert_ffn has no gradient: use an activation without weights, such as tf.nn.relu"
        )
