import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.layers.attention import KINDS, Attention

UNITS, WIDTH, QUERY = 4, 3, 5  # A, M, Q
RNG = np.random.default_rng(0)
MEMORY = RNG.standard_normal((3, 6, WIDTH))
QUERIES = RNG.standard_normal((3, QUERY))
# A full source, a short source, and a source with padding in between.
MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [0, 1, 0, 1, 1, 0]], bool)
CONTEXT_WEIGHTS = RNG.standard_normal((3, WIDTH))
ATTENTION_WEIGHTS = RNG.standard_normal((3, 6))


def random_layer(kind, dtype="float64"):
    layer = Attention(UNITS, kind, dtype=dtype)
    layer.build((None, QUERY), None, (None, None, WIDTH))
    rng = np.random.default_rng(1)
    for weight in layer.weights:
        weight.assign(rng.standard_normal(weight.shape))
    return layer


def attend(layer, query, memory, mask=None):
    query, memory = tf.convert_to_tensor(query), tf.convert_to_tensor(memory)
    mask = None if mask is None else tf.constant(mask)
    return layer(query, layer.keys(memory), memory, mask)


def by_numpy(kind, query, memory, mask, source_kernel, query_kernel, scale):
    """Computes contexts and weights with scalar loops."""
    num_rows, num_steps = mask.shape
    contexts, weights = np.zeros((num_rows, memory.shape[-1])), np.zeros(mask.shape)
    for b in range(num_rows):
        scores = np.zeros(num_steps)
        for i in range(num_steps):
            for d in range(len(scale)):
                source = sum(memory[b, i] * source_kernel[:, d])
                target = sum(query[b] * query_kernel[:, d])
                if kind == "additive":
                    scores[i] += scale[d] * math.tanh(source + target)
                else:
                    scores[i] += scale[d] * math.tanh(source) * math.tanh(target)
        total = sum(math.exp(scores[i]) for i in range(num_steps) if mask[b, i])
        for i in range(num_steps):
            weights[b, i] = math.exp(scores[i]) / total if mask[b, i] else 0
            contexts[b] += weights[b, i] * memory[b, i]
    return contexts, weights


# By hand: A = 2, two source steps (ln 2, 0) and (0, ln 3), U and W the identity. tanh(ln 2) = 3/5,
# tanh(ln 3) = 4/5, tanh(ln 6) = 35/37, tanh(2·ln 2) = 15/17, tanh(2·ln 3) = 40/41.
HAND_MEMORY = np.array([[[math.log(2), 0], [0, math.log(3)]]])
HAND_QUERY = np.array([[math.log(2), math.log(3)]])
HAND_SCORES = {  # V = (2, 10)
    "multiplicative": [2 * 3 / 5 * 3 / 5, 10 * 4 / 5 * 4 / 5],
    "additive": [2 * 15 / 17 + 10 * 4 / 5, 2 * 3 / 5 + 10 * 40 / 41],
}


@pytest.mark.parametrize("kind", KINDS)
def test_by_hand(kind):
    layer = Attention(2, kind, dtype="float64")
    layer.build((None, 2), None, (None, None, 2))
    layer.source_kernel.assign(np.eye(2))
    layer.query_kernel.assign(np.eye(2))
    layer.scale.assign([2, 10])
    context, weights = attend(layer, HAND_QUERY, HAND_MEMORY)
    first = 1 / (1 + math.exp(HAND_SCORES[kind][1] - HAND_SCORES[kind][0]))
    np.testing.assert_allclose(weights.numpy(), [[first, 1 - first]], rtol=1e-5)
    expected = [[first * math.log(2), (1 - first) * math.log(3)]]
    np.testing.assert_allclose(context.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("mask", [None, MASK], ids=["no mask", "mask"])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_against_a_loop(kind, mask):
    layer = random_layer(kind)
    arguments = [QUERIES, MEMORY, *(weight.numpy() for weight in layer.weights)]
    no_mask = np.ones(MASK.shape, bool)

    def total_by_numpy(query, memory, *weights):
        context, attention = by_numpy(
            kind, query, memory, no_mask if mask is None else mask, *weights
        )
        return np.sum(context * CONTEXT_WEIGHTS) + np.sum(attention * ATTENTION_WEIGHTS)

    query, memory = tf.constant(QUERIES), tf.constant(MEMORY)
    with tf.GradientTape() as tape:
        tape.watch([query, memory])
        context, attention = attend(layer, query, memory, mask)
        total = tf.reduce_sum(context * CONTEXT_WEIGHTS) + tf.reduce_sum(
            tf.cast(attention, tf.float64) * ATTENTION_WEIGHTS
        )
    assert (context.dtype, attention.dtype) == (tf.float64, tf.float32)
    weights = [layer.source_kernel, layer.query_kernel, layer.scale]
    assert [weight.path for weight in weights] == [weight.path for weight in layer.weights]
    expected = by_numpy(kind, QUERIES, MEMORY, no_mask if mask is None else mask, *arguments[2:])
    for a, b in zip((context, attention), expected, strict=True):  # p is float32
        np.testing.assert_allclose(a.numpy(), b, rtol=0, atol=2e-6)
    gradients = tape.gradient(total, [query, memory, *weights])
    for i, gradient in enumerate(gradients):
        numerical = np.zeros(arguments[i].shape)
        for index in np.ndindex(numerical.shape):
            sides = []
            for step in (1e-5, -1e-5):
                shifted = [argument.copy() for argument in arguments]
                shifted[i][index] += step
                sides.append(total_by_numpy(*shifted))
            numerical[index] = (sides[0] - sides[1]) / 2e-5
        np.testing.assert_allclose(gradient.numpy(), numerical, rtol=0, atol=1e-5)
        assert np.abs(numerical).max() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_weights_sum_to_1_over_the_real_steps(kind):
    _, weights = attend(random_layer(kind), QUERIES, MEMORY, MASK)
    np.testing.assert_allclose(weights.numpy().sum(axis=1), 1, rtol=1e-6)
    assert not weights.numpy()[~MASK].any()
    assert np.all(weights.numpy()[MASK] > 0)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_has_no_influence(kind):
    layer = random_layer(kind)
    results = []
    for filling in (0.0, 7.0, -1e30):
        memory = tf.constant(np.where(MASK[..., None], MEMORY, filling))
        with tf.GradientTape() as tape:
            tape.watch(memory)
            context, weights = attend(layer, QUERIES, memory, MASK)
            total = tf.reduce_sum(context**2)
        gradients = tape.gradient(total, [memory, *layer.trainable_variables])
        assert not gradients[0].numpy()[~MASK].any()
        results.append([context, weights, *gradients])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
    context, weights = attend(layer, QUERIES[1:2], MEMORY[1:2, :2])
    np.testing.assert_allclose(context.numpy()[0], results[0][0].numpy()[1], rtol=1e-6)
    np.testing.assert_allclose(weights.numpy()[0], results[0][1].numpy()[1, :2], rtol=1e-6)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_steps", [6, 0])
def test_source_of_padding_only(kind, compiled, num_steps):
    layer = random_layer(kind, dtype="float32")

    def step(query, memory, mask):
        with tf.GradientTape() as tape:
            tape.watch([query, memory])
            context, weights = layer(query, layer.keys(memory), memory, mask)
            total = tf.reduce_sum(context) + tf.reduce_sum(tf.sin(weights))
        return context, weights, *tape.gradient(total, [query, memory, *layer.trainable_variables])

    step = tf.function(step) if compiled else step
    mask = np.zeros((2, num_steps), bool)
    memory = MEMORY[:2, :num_steps].astype("float32")
    context, weights, *gradients = step(
        tf.constant(QUERIES[:2], tf.float32), tf.constant(memory), tf.constant(mask)
    )
    np.testing.assert_array_equal(context.numpy(), np.zeros((2, WIDTH)))
    np.testing.assert_array_equal(weights.numpy(), np.zeros((2, num_steps)))
    for gradient in gradients:
        np.testing.assert_array_equal(gradient.numpy(), np.zeros(gradient.shape))


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_source_does_not_affect_the_batch(kind):
    layer = random_layer(kind)
    mask = MASK.copy()
    mask[1] = False
    context, weights = attend(layer, QUERIES, MEMORY, mask)
    alone, alone_weights = attend(layer, QUERIES[[0, 2]], MEMORY[[0, 2]], MASK[[0, 2]])
    np.testing.assert_allclose(context.numpy()[[0, 2]], alone.numpy(), rtol=1e-6)
    np.testing.assert_allclose(weights.numpy()[[0, 2]], alone_weights.numpy(), rtol=1e-6)
    assert not context.numpy()[1].any()


@pytest.mark.parametrize("kind", KINDS)
def test_large_scores_are_finite(kind):
    layer = random_layer(kind, dtype="float32")
    layer.scale.assign(np.full(UNITS, 1e30))
    context, weights = attend(layer, QUERIES.astype("f"), MEMORY.astype("f"), MASK)
    assert np.all(np.isfinite(context.numpy()))
    np.testing.assert_allclose(weights.numpy().sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_config_round_trip(kind):
    layer = Attention(UNITS, kind, name="attention", dtype="float64")
    for restored in (
        Attention.from_config(layer.get_config()),
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer)),
    ):
        assert restored.get_config() == layer.get_config()
        assert (restored.units, restored.kind, restored.compute_dtype) == (UNITS, kind, "float64")


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_bfloat16(kind):
    layer = random_layer(kind, dtype="mixed_bfloat16")
    assert {weight.dtype for weight in layer.weights} == {"float32"}
    memory = tf.constant(MEMORY, tf.bfloat16)
    keys = layer.keys(memory)
    assert keys.dtype == tf.bfloat16
    context, weights = layer(tf.constant(QUERIES, tf.bfloat16), keys, memory, tf.constant(MASK))
    assert (context.dtype, weights.dtype) == (tf.bfloat16, tf.float32)
    np.testing.assert_allclose(weights.numpy().sum(axis=1), 1, rtol=1e-6)
    expected = by_numpy(kind, QUERIES, MEMORY, MASK, *(weight.numpy() for weight in layer.weights))
    np.testing.assert_allclose(weights.numpy(), expected[1], rtol=0, atol=0.1)


def test_shapes_and_counts():
    layer = random_layer("multiplicative")
    assert layer.count_params() == (QUERY + WIDTH + 1) * UNITS
    shapes = layer.compute_output_shape((7, QUERY), (7, 6, UNITS), (7, 6, WIDTH))
    assert shapes == ((7, WIDTH), (7, 6))
    assert layer.keys(tf.constant(MEMORY)).shape == (3, 6, UNITS)


def test_scale_starts_at_one():
    layer = Attention(UNITS)
    layer.build((None, QUERY), None, (None, None, WIDTH))
    np.testing.assert_array_equal(layer.scale.numpy(), np.ones(UNITS))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"units": 0}, r"units must be an integer of at least 1, got 0"),
        ({"units": 2.5}, r"units must be an integer of at least 1, got 2.5"),
        (
            {"units": 2, "kind": "dot"},
            r"kind must be one of multiplicative, additive, got 'dot'",
        ),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Attention(**arguments)


@pytest.mark.parametrize("kind", KINDS)
def test_integer_inputs_and_masks(kind):
    layer = random_layer(kind, dtype="float32")
    query, memory = np.round(3 * QUERIES), np.round(3 * MEMORY)
    results = []
    for dtype, mask in (("float32", tf.constant(MASK)), ("int64", MASK.astype("int32"))):
        x, y = memory.astype(dtype), query.astype(dtype)
        results.append(layer(y, layer.keys(x), x, mask))
    for a, b in zip(*results, strict=True):
        assert a.dtype == b.dtype == tf.float32
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_mask_by_either_name():
    layer = random_layer("additive")
    memory, other = tf.constant(MEMORY), tf.zeros(MASK.shape, tf.bool)
    keys = layer.keys(memory)
    expected = layer(QUERIES, keys, memory, mask=tf.constant(MASK))[1].numpy()
    for masks in ({"memory_mask": tf.constant(MASK)}, {"mask": MASK, "memory_mask": other}):
        np.testing.assert_array_equal(layer(QUERIES, keys, memory, **masks)[1].numpy(), expected)
