"""Checks of the path with static shapes, which XLA and other runtimes use.

Axes: B batch, S steps, D width.
"""

import keras
import numpy as np
import tensorflow as tf

from tfmoe.distribute.static_shapes import portable_operations
from tfmoe.testing.mixtures import gate_options, levels_of
from tfmoe.testing.properties import gate_check, require

B, S, D = 5, 4, 6
X = np.random.default_rng(0).standard_normal((B, S, D)).astype("float32")
MASK = np.arange(S)[None] < np.array([4, 2, 0, 3, 1])[:, None]
COTANGENT = np.random.default_rng(1).standard_normal((B, S, D)).astype("float32")
# Operations that ONNX Runtime, LiteRT or TensorFlow.js do not have, or whose shapes depend on
# values.
WITHOUT_COUNTERPART = {
    "DenseBincount", "DynamicPartition", "DynamicStitch", "InvertPermutation", "LowerBound",
    "RaggedTensorToTensor", "TensorListConcatV2", "TensorListFromTensor", "TensorListReserve",
    "Unique", "UnsortedSegmentSum", "UpperBound", "Where", "While", "StatelessWhile",
}  # fmt: skip


def made(case, **options):
    """A built mixture with random kernels; it draws the same numbers as others."""
    keras.utils.set_random_seed(4)
    layer = case.make_layer(depth=2, use_bias=True, activation="tanh", **options)
    layer(X, **gate_options(layer, X))
    rng = np.random.default_rng(3)
    for weight in layer.trainable_weights:
        if "kernel" in weight.path:
            weight.assign(0.4 * rng.standard_normal(weight.shape))
    return layer


def step(layer, x, mask, training):
    """The output, the losses, their gradients and the updated weights of a mixture."""
    kernels = [weight.value for weight in layer.trainable_weights]
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, mask=mask, training=training, **gate_options(layer, x))
        loss = tf.add_n([tf.reduce_sum(y * COTANGENT), *layer.losses])
    gradients = tape.gradient(
        loss, [x, *kernels], unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
    return y, loss, gradients, [weight.value for weight in layer.non_trainable_weights]


def assert_close(actual, expected):
    """Raises an `AssertionError` if structures of tensors differ."""
    for a, b in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def compare_static_shapes(case, capacity=None, mask=None):
    """Compares a step with static shapes with a step without.

    Args:
        case: a `GateCase`.
        capacity: the capacity factors of the mixture.
        mask: `[B, S]` bool, or `None`.
    """
    options = {"capacity_factor": capacity, "evaluation_capacity_factor": capacity}
    for training in (True, False):
        expected = step(made(case, **options), tf.constant(X), mask, training)
        with portable_operations():
            actual = step(made(case, **options), tf.constant(X), mask, training)
        assert_close(actual, expected)


@gate_check(
    "with static shapes, where padding stays in the inputs and `groups` has its mask, the outputs, "
    "losses and gradients are the same.",
    "`groups` not passed on to logits, features and routing_of_tokens, or a value of the tokens "
    "that is summed without routing_of_tokens.",
)
def static_shapes(case):
    compare_static_shapes(case)
    compare_static_shapes(case, capacity=1.0, mask=MASK)


@gate_check(
    "a step that XLA compiles gives the same outputs, losses and gradients.",
    "an operation whose shape depends on values (tf.where(mask), tf.boolean_mask, tf.unique).",
)
def xla(case):
    for training in (True, False):
        expected = step(made(case, capacity_factor=1.0), tf.constant(X), MASK, training)
        compiled = tf.function(step, jit_compile=True, autograph=False)
        layer = made(case, capacity_factor=1.0)
        assert_close(compiled(layer, tf.constant(X), MASK, training), expected)


@gate_check(
    "inference uses only operations that ONNX Runtime, LiteRT and TensorFlow.js have, unless the "
    "gate sets depends_on_batch.",
    "an operation whose shape depends on values (tf.where(mask), tf.boolean_mask, tf.unique).",
)
def portable(case):
    layer = made(case)
    if any(gate.depends_on_batch for gate in levels_of(layer.gate)):
        return  # exports refuse it

    @tf.function(autograph=False)
    def infer(x, mask):
        return layer(x, mask=mask, **gate_options(layer, x))

    with portable_operations():
        graph = infer.get_concrete_function(
            tf.TensorSpec([None, None, D]), tf.TensorSpec([None, None], tf.bool)
        ).graph
    used = {op.type for op in before(graph.outputs)} & WITHOUT_COUNTERPART
    require(not used, f"operations without a counterpart: {sorted(used)}")


def before(tensors):
    """The operations on which tensors depend."""
    operations, waiting = set(), [tensor.op for tensor in tensors]
    while waiting:
        operation = waiting.pop()
        if operation not in operations:
            operations.add(operation)
            waiting += [tensor.op for tensor in operation.inputs]
    return operations
