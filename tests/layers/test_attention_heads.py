"""`SelfAttention` and `CrossAttention`.

Axes: B batch, S steps, M source steps, D width, H heads of queries, K heads of keys and values.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.layers import CrossAttention, Residual, SelfAttention

B, S, M, D = 2, 5, 4, 8
RNG = np.random.default_rng(0)
X, MEMORY = RNG.standard_normal((B, S, D)), RNG.standard_normal((B, M, D))
MASK = np.array([[True, True, True, False, False], [True, True, True, True, False]])
MEMORY_MASK = np.array([[True, True, False, False], [True, True, True, True]])


def with_kernels(layer, *kernels):
    layer.build((None, None, len(kernels[0])))
    layer.set_weights([np.array(kernel, "float32") for kernel in kernels])
    return layer


def test_by_hand():
    # One head, U = 1: query and key of a step are its first element, the value is the second.
    first, second = [[1], [0]], [[0], [1]]
    layer = with_kernels(SelfAttention(1, head_units=1, rotary_base=None), first, first, second,
                         [[1, 0]])  # fmt: skip
    x = np.array([[[0.0, 4.0], [np.log(2), 8.0], [1.0, 16.0]]])
    # Step 0 attends to itself: 4. Step 1: scores 0 and ln² 2, weights 1 and 2^ln 2.
    # Step 2: scores 0, ln 2 and 1, weights 1, 2 and e.
    share = 2 ** np.log(2)
    expected = [4, (4 + 8 * share) / (1 + share), (4 + 2 * 8 + np.e * 16) / (1 + 2 + np.e)]
    np.testing.assert_allclose(layer(x)[0, :, 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(layer(x)[0, :, 1], 0)


def test_rotary_positions_by_hand():
    # One pair, rotated by one radian per step. The query (1, 0) of step t and the key (1, 0) of
    # step s have the product cos(t - s); the score is cos(t - s) / √2. The value is the third
    # element, which is the step.
    x = np.array([[[1.0, 0.0, t] for t in range(4)]])
    pair, value = [[1, 0], [0, 1], [0, 0]], [[0, 0], [0, 0], [1, 0]]
    layer = with_kernels(SelfAttention(1, head_units=2), pair, pair, value, [[0, 0, 1]] * 2)
    weights = np.exp(np.cos(3 - np.arange(4)) / np.sqrt(2))
    expected = weights @ np.arange(4) / weights.sum()
    assert layer(x)[0, 3, 2].numpy() == pytest.approx(expected, rel=1e-6)


def heads_of(x, kernel, num_heads):
    return tf.transpose(tf.reshape(x @ kernel, [B, x.shape[1], num_heads, -1]), [0, 2, 1, 3])


def turned(x):
    """Rotary positions as products of complex numbers."""
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[2])[:, None] * 10000.0 ** (-np.arange(half) / half)
    product = tf.complex(x[..., :half], x[..., half:]) * np.exp(1j * angles)
    return tf.concat([tf.math.real(product), tf.math.imag(product)], axis=-1)


def dense(layer, x, memory, visible, rotate):
    """The layer's formula, with one head after the other."""
    query, key, value, projection = (weight.value for weight in layer.weights)
    num_heads, num_pairs = layer.num_heads, layer.num_key_value_heads
    queries, keys = heads_of(x, query, num_heads), heads_of(memory, key, num_pairs)
    if rotate:
        queries, keys = turned(queries), turned(keys)
    values, outputs = heads_of(memory, value, num_pairs), []
    for head in range(num_heads):
        shared = head * num_pairs // num_heads
        scores = queries[:, head] @ tf.linalg.matrix_transpose(keys[:, shared])
        scores = tf.exp(scores / np.sqrt(queries.shape[-1])) * visible
        outputs.append(scores / tf.reduce_sum(scores, -1, keepdims=True) @ values[:, shared])
    return tf.concat(outputs, axis=-1) @ projection


def gradients(function, layer, *inputs):
    inputs = [tf.constant(x) for x in inputs]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = function(*inputs)
        total = tf.reduce_sum(outputs * tf.reshape(tf.range(tf.size(outputs, tf.int64)),
                                                   outputs.shape).numpy())  # fmt: skip
    return [outputs, *tape.gradient(total, [*inputs, *layer.trainable_variables])]


@pytest.mark.parametrize(
    ("arguments", "mask"),
    [
        ({"num_heads": 2}, None),
        ({"num_heads": 4, "num_key_value_heads": 2}, MASK),
        ({"num_heads": 4, "num_key_value_heads": 1, "causal": False}, MASK),
        ({"num_heads": 3, "head_units": 5, "causal": False, "rotary_base": None}, None),
    ],
)
def test_self_attention_equals_the_dense_formula(arguments, mask):
    layer = SelfAttention(**arguments, dtype="float64")
    layer.build(X.shape)
    visible = np.ones((B, S, S)) if mask is None else np.repeat(1.0 * mask[:, None], S, axis=1)
    visible = np.tril(visible) if layer.causal else visible
    actual = gradients(lambda x: layer(x, mask=mask), layer, X)
    rotate = layer.rotary_base is not None
    expected = gradients(lambda x: dense(layer, x, x, visible, rotate), layer, X)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mask", [None, MEMORY_MASK])
def test_cross_attention_equals_the_dense_formula(mask):
    layer = CrossAttention(4, 2, dtype="float64")
    layer.build(X.shape)
    visible = 1.0 if mask is None else 1.0 * mask[:, None]
    actual = gradients(lambda x, m: layer(x, m, memory_mask=mask), layer, X, MEMORY)
    expected = gradients(lambda x, m: dense(layer, x, m, visible, False), layer, X, MEMORY)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_self_attention_equals_that_of_keras():
    theirs = keras.layers.GroupQueryAttention(2, 4, 2, dtype="float64")  # softmax in float32
    expected = theirs(X, X, use_causal_mask=True)
    ours = SelfAttention(4, 2, head_units=2, rotary_base=None, use_bias=True, dtype="float64")
    ours.build(X.shape)
    for a, b in zip(ours.weights, theirs.weights, strict=True):
        a.assign(tf.reshape(b, a.shape))
    np.testing.assert_allclose(ours(X), expected, rtol=0, atol=1e-6)


def test_attention_weights():
    layer = CrossAttention(2, head_units=3)
    outputs, weights = layer(X, MEMORY, MEMORY_MASK, return_attention=True)
    np.testing.assert_array_equal(outputs, layer(X, MEMORY, MEMORY_MASK))
    np.testing.assert_allclose(weights.numpy().sum(-1), 1, rtol=1e-6)
    assert not weights.numpy()[~np.repeat(MEMORY_MASK[:, None], S, axis=1)].any()
    np.testing.assert_array_equal(weights.shape, [B, S, M])


@pytest.mark.parametrize("layer", [SelfAttention(2, causal=False), CrossAttention(2)])
def test_a_sentence_of_padding_only(layer):
    memory = [MEMORY] if layer.needs_memory else []
    mask = np.zeros((B, M if memory else S), bool)
    outputs = layer(X, *memory, mask)
    np.testing.assert_array_equal(outputs, 0)
    if memory:
        np.testing.assert_array_equal(layer(X, MEMORY, mask, return_attention=True)[1], 0)


def test_products_depend_on_the_distance_of_positions_only():
    layer = SelfAttention(2, head_units=4, causal=False)
    repeated = np.tile(X[:, :1], (1, 3, 1))  # equal inputs: only positions could tell them apart
    outputs = layer(repeated).numpy()
    np.testing.assert_allclose(outputs[:, 1:], outputs[:, :-1], rtol=1e-5, atol=1e-6)
    assert np.abs(layer(X[:, ::-1].copy())[:, ::-1] - layer(X)).max() > 1e-3
    without = SelfAttention(2, causal=False, rotary_base=None)
    reverse = without(X[:, ::-1].copy())[:, ::-1]
    np.testing.assert_allclose(reverse, without(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arguments", [{}, {"num_key_value_heads": 1}, {"rotary_base": None}])
def test_a_cache_longer_than_the_sentence(arguments):
    layer = SelfAttention(2, **arguments)
    expected = layer(X).numpy()
    state = layer.initial_state(B, S + 3)
    assert state.keys.shape == (B, arguments.get("num_key_value_heads", 2), S + 3, 4)
    for t in range(S):
        output, state = layer.step(X[:, t], state)
        np.testing.assert_allclose(output, expected[:, t], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(state.position, [S, S])


def test_rows_of_a_cache_at_different_positions():
    layer = SelfAttention(2)
    expected, state = layer(X).numpy(), layer.initial_state(B, S)
    for t in range(2):
        _, state = layer.step(X[:, t], state)
    # Row 1 begins again.
    fresh = layer.initial_state(B, S)
    state = tf.nest.map_structure(lambda a, b: tf.concat([a[:1], b[1:]], 0), state, fresh)
    output, _ = layer.step(np.stack([X[0, 2], X[1, 0]]), state)
    np.testing.assert_allclose(output[0], expected[0, 2], rtol=0, atol=1e-6)
    np.testing.assert_allclose(output[1], expected[1, 0], rtol=0, atol=1e-6)


def test_steps_beyond_the_cache():
    layer = SelfAttention(2)
    layer.build(X.shape)
    state = layer.initial_state(B, 1)
    assert np.all(np.isfinite(layer.step(X[:, 0], state)[0]))
    assert np.all(np.isnan(layer.step(X[:, 1], layer.step(X[:, 0], state)[1])[0]))


def test_states_that_cannot_be_made():
    layer = SelfAttention(2, name="layer")
    with pytest.raises(ValueError, match=r"layer must be built before its first step"):
        layer.initial_state(B, S)
    with pytest.raises(ValueError, match=r"max_length must be the maximum .* got None: layer"):
        Residual(layer).initial_state(B)
    encoder = SelfAttention(2, causal=False, name="encoder")
    encoder.build(X.shape)
    for call in (lambda: encoder.initial_state(B, S), lambda: encoder.step(X[:, 0], None)):
        with pytest.raises(ValueError, match=r"encoder cannot compute .*\(causal=False\)"):
            call()
    assert (encoder.reads_later, encoder.is_causal) == (True, False)
    assert (layer.reads_later, layer.is_causal) == (False, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_key_value_heads": 3}, r"num_key_value_heads must be a divisor of num_heads, got 3"),
        ({"num_heads": 3}, r"num_heads must be a divisor of the width of the inputs, 8, got 3"),
        ({"head_units": 3}, r"head_units must be even with rotary positions, got 3; rotary_base"),
        ({"num_heads": 8}, r"got the width of the inputs / num_heads = 1; rotary_base=None"),
        ({"rotary_base": 0}, r"rotary_base must be a finite number above 0, got 0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SelfAttention(**{"num_heads": 4, **arguments}).build((None, None, D))


@pytest.mark.parametrize(
    ("layer", "ops"),
    # D = 8; queries and output 8·U·H, keys and values 8·U·K.
    [
        (SelfAttention(4), 2 * 8 * 8 + 2 * 8 * 8),
        (SelfAttention(4, 2), 2 * 8 * 8 + 2 * 8 * 4),
        (CrossAttention(4, 1, head_units=6), 2 * 8 * 24 + 2 * 8 * 6),
    ],
)
def test_operations_by_hand(layer, ops):
    assert layer.ops_per_timestep(D) == ops
    assert layer.gate_ops_per_timestep(D) == 0


def test_kept_by_hand():
    # Input 8, queries 8 and contexts 8, keys and values 2·4, a weight for each head and step.
    layer = SelfAttention(4, 2)
    assert layer.kept_for_backward(D, steps=5).total() == 4 * (8 + 8 + 8 + 2 * 4 + 4 * 5)
    # Weights in float32 for the softmax and in bfloat16 for the product.
    half = SelfAttention(4, 2, dtype="mixed_bfloat16")
    assert half.kept_for_backward(D, steps=5).total() == 2 * (8 + 8 + 8 + 2 * 4) + (4 + 2) * 4 * 5
    cross = CrossAttention(4, 2)
    assert cross.kept_for_backward(D, steps=5).total() == 4 * (8 + 8 + 8 + 4 * 5)
    assert cross.kept_of_source(D) == 4 * (8 + 2 * 4)


@pytest.mark.slow
def test_compiled_by_xla():
    layer = SelfAttention(4, 2)
    expected = layer(X, mask=MASK)
    compiled = tf.function(lambda x, mask: layer(x, mask=mask), jit_compile=True)
    np.testing.assert_allclose(compiled(X, MASK), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("window", [1, 2, 3, 9])
def test_a_sliding_window_is_a_mask_of_earlier_positions(window):
    # With the value as the step itself and equal scores, the output is the mean of the window.
    first, zero = [[1.0], [0.0]], [[0.0], [0.0]]
    layer = SelfAttention(1, head_units=1, rotary_base=None, sliding_window=window)
    with_kernels(layer, zero, zero, first, [[1.0, 0.0]])
    x = np.array([[[float(t), 1.0] for t in range(5)]])
    expected = [np.mean(range(max(0, t - window + 1), t + 1)) for t in range(5)]
    np.testing.assert_allclose(layer(x)[0, :, 0], expected, rtol=1e-6)
    state, steps = layer.initial_state(1, max_length=5), []
    for t in range(5):
        output, state = layer.step(x[:, t], state)
        steps.append(output[0, 0])
    np.testing.assert_allclose(steps, expected, rtol=1e-6)


def test_a_window_needs_a_causal_layer():
    with pytest.raises(ValueError, match="sliding_window must be None with causal=False, got 3"):
        SelfAttention(2, causal=False, sliding_window=3)


def test_normalized_queries_and_keys_by_hand():
    # Queries and keys are (3, 4) and (6, 8), of rms 5/√2 and 10/√2: both become (3, 4)·√2/5, so
    # that all scores of a head are equal before the scale. Scales (1, 0) and (0, 1) give 0.
    layer = SelfAttention(1, head_units=2, rotary_base=None, query_key_norm="rms")
    eye = [[1.0, 0.0], [0.0, 1.0]]
    with_kernels(layer, [1, 1], [1, 1], eye, eye, eye, eye)
    x = np.array([[[3.0, 4.0], [6.0, 8.0]]])
    np.testing.assert_allclose(layer(x)[0, 1], [4.5, 6.0], rtol=1e-5)
    layer.set_weights([np.array(weight) for weight in ([2, 0], [0.5, 7], eye, eye, eye, eye)])
    # The scores are 2·0.5·(3·√2/5)²/√2 for both keys.
    np.testing.assert_allclose(layer(x)[0, 1], [4.5, 6.0], rtol=1e-5)
    x = np.array([[[3.0, 4.0], [8.0, 6.0]]])
    share = np.exp(2 * 0.5 * (4 * 3 - 4 * 4) * 2 / 25 / np.sqrt(2))
    weights = np.array([share, 1]) / (1 + share)
    np.testing.assert_allclose(layer(x)[0, 1], weights @ x[0], rtol=1e-5)


def test_epsilon_of_normalized_queries_and_keys():
    with pytest.raises(ValueError, match="query_key_norm_epsilon must be a finite number above 0"):
        SelfAttention(2, query_key_norm="rms", query_key_norm_epsilon=0)
    layer = SelfAttention(2, query_key_norm="layer", query_key_norm_epsilon=0.5)
    layer.build((None, None, D))
    assert (layer.query_norm.epsilon, layer.key_norm.epsilon) == (0.5, 0.5)
    assert SelfAttention.from_config(layer.get_config()).query_key_norm_epsilon == 0.5
