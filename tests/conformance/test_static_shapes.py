"""Requirements on every gate in every mixture: the path with static shapes gives the values of the
sorted path, and XLA compiles it.

Axes: B batch, S steps, D width.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conformance.gates import VARIANTS, gate_options, make_mixture

from tfmoe import gating
from tfmoe.distribute.static_shapes import portable_operations

pytestmark = pytest.mark.filterwarnings(
    "ignore:NoisyTopK with k=1", "ignore:ExpertChoice:UserWarning"
)

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


QUICK = [*((name, "flat") for name in gating.GATES), ("batchwise", "groups")]


# The answers of other gates depend on the batch, so exports refuse them.
DEPENDS_ON_BATCH = [name for name, gate in gating.GATES.items() if gate.depends_on_batch is True]
EXPORTABLE = [variant for variant in VARIANTS if variant[0] not in DEPENDS_ON_BATCH]


def variants(quick, among=VARIANTS):
    """Variants; those that are not among the quick ones are marked slow."""
    for variant in among:
        marks = () if variant in quick else pytest.mark.slow
        yield pytest.param(variant, marks=marks, id="-".join(variant))


def made(variant, **options):
    """A built mixture with random kernels; it draws the same numbers as others."""
    keras.utils.set_random_seed(4)
    layer = make_mixture(variant, depth=2, use_bias=True, activation="tanh", **options)
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
    for a, b in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("capacity", "mask"),
    [(None, None), (None, MASK), (1.0, None), (1.0, MASK)],
    ids=["dropless", "dropless-padded", "capacity", "capacity-padded"],
)
@pytest.mark.parametrize("variant", variants(QUICK))
def test_values_and_gradients(variant, capacity, mask):
    options = {"capacity_factor": capacity, "evaluation_capacity_factor": capacity}
    for training in (True, False):
        expected = step(made(variant, **options), tf.constant(X), mask, training)
        with portable_operations():
            actual = step(made(variant, **options), tf.constant(X), mask, training)
        assert_close(actual, expected)


@pytest.mark.parametrize("variant", variants([("noisy_top_k", "flat")]))
def test_xla(variant):
    for training in (True, False):
        expected = step(made(variant, capacity_factor=1.0), tf.constant(X), MASK, training)
        compiled = tf.function(step, jit_compile=True, autograph=False)
        layer = made(variant, capacity_factor=1.0)
        assert_close(compiled(layer, tf.constant(X), MASK, training), expected)


@pytest.mark.parametrize("variant", variants(QUICK, EXPORTABLE))
def test_inference_uses_operations_of_every_runtime(variant):
    layer = made(variant)

    @tf.function(autograph=False)
    def infer(x, mask):
        return layer(x, mask=mask, **gate_options(layer, x))

    with portable_operations():
        graph = infer.get_concrete_function(
            tf.TensorSpec([None, None, D]), tf.TensorSpec([None, None], tf.bool)
        ).graph
    assert not {op.type for op in before(graph.outputs)} & WITHOUT_COUNTERPART


def before(tensors):
    """The operations on which tensors depend."""
    operations, waiting = set(), [tensor.op for tensor in tensors]
    while waiting:
        operation = waiting.pop()
        if operation not in operations:
            operations.add(operation)
            waiting += [tensor.op for tensor in operation.inputs]
    return operations


@pytest.mark.slow
def test_fit_evaluate_and_predict_with_xla(recwarn):
    results = []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(2)
        inputs = keras.Input([None, D])
        layer = make_mixture(("noisy_top_k", "flat"), capacity_factor=1.5)
        model = keras.Model(inputs, keras.layers.Dense(2)(layer(inputs)))
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit_compile)
        assert model.jit_compile is jit_compile
        model.optimizer.build(model.trainable_variables)
        y = COTANGENT[..., :2]
        history = model.fit(X, y, epochs=3, batch_size=2, shuffle=False, verbose=0).history
        evaluated = model.evaluate(X, y, verbose=0, return_dict=True)
        results.append((history, evaluated, model.predict(X, verbose=0)))
    assert results[0][0].keys() == results[1][0].keys()
    assert_close(results[1], results[0])
    assert not [warning for warning in recwarn if "jit_compile" in str(warning.message)]
