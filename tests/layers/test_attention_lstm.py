import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.layers import AttentionLSTM, ProjectedLSTM

D, UNITS, PROJECTION = 3, 4, 2
RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 5, D))
MEMORY = RNG.standard_normal((2, 4, D))
MASK = np.array([[True] * 4, [True, True, False, False]])
KINDS = ["multiplicative", "additive"]


def random_layer(projection=PROJECTION, dtype="float64", **arguments):
    layer = AttentionLSTM(UNITS, projection, dtype=dtype, **arguments)
    layer.build((None, None, D), (None, None, D))
    rng = np.random.default_rng(1)
    for weight in layer.weights:
        weight.assign(rng.standard_normal(weight.shape))
    return layer


def call(layer, x=X, memory=MEMORY, mask=MASK, **arguments):
    mask = None if mask is None else tf.constant(mask)
    x, memory = tf.convert_to_tensor(x), tf.convert_to_tensor(memory)
    return layer(x, memory, memory_mask=mask, **arguments)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def recurrence(x, memory, mask, weights, kind):
    """Outputs and attention, step by step.

    Args:
        x: NumPy array.
        memory: NumPy array.
        mask: NumPy array.
        weights: NumPy arrays by the name of the weight.
        kind: kind of attention.
    """
    width = weights["recurrent_kernel"].shape[0]
    r, c = np.zeros((len(x), width)), np.zeros((len(x), UNITS))
    outputs, attention = [], []
    for t in range(x.shape[1]):
        source = memory @ weights["source_kernel"]
        query = (r @ weights["query_kernel"])[:, None, :]
        product = np.tanh(source) * np.tanh(query)
        terms = np.tanh(source + query) if kind == "additive" else product
        p = np.exp(terms @ weights["scale"]) * mask
        p = p / p.sum(axis=1, keepdims=True)
        context = np.einsum("bs,bsm->bm", p, memory)
        z = (
            x[:, t] @ weights["kernel"]
            + context @ weights["context_kernel"]
            + r @ weights["recurrent_kernel"]
            + weights["bias"]
        )
        i, f, g, o = np.split(z, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        r = sigmoid(o) * np.tanh(c)
        if "projection_kernel" in weights:
            r = r @ weights["projection_kernel"]
        outputs.append(r)
        attention.append(p)
    return np.stack(outputs, axis=1), np.stack(attention, axis=1)


def weights_of(layer):
    return {weight.name: weight.numpy() for weight in layer.weights}


@pytest.mark.parametrize("mask", [None, MASK], ids=["no mask", "mask"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("projection", [None, PROJECTION])
@pytest.mark.parametrize("attention_units", [None, 7])
def test_against_a_step_by_step_recurrence(projection, kind, mask, attention_units):
    layer = random_layer(projection, attention=kind, attention_units=attention_units)
    outputs, attention = call(layer, mask=mask, return_attention=True)
    no_mask = np.ones(MASK.shape, bool)
    expected = recurrence(X, MEMORY, no_mask if mask is None else mask, weights_of(layer), kind)
    # Attention weights are float32.
    np.testing.assert_allclose(outputs.numpy(), expected[0], rtol=0, atol=3e-6)
    np.testing.assert_allclose(attention.numpy(), expected[1], rtol=0, atol=3e-6)
    assert (outputs.dtype, attention.dtype) == (tf.float64, tf.float32)
    assert (outputs.shape, attention.shape) == ((2, 5, projection or UNITS), (2, 5, 4))
    np.testing.assert_array_equal(call(layer, mask=mask).numpy(), outputs.numpy())


def test_the_first_query_is_zero():
    # tanh(0) = 0, so all scores are equal and the context is the mean of the real steps.
    _, attention = call(random_layer(), return_attention=True)
    expected = [[1 / 4] * 4, [1 / 2, 1 / 2, 0, 0]]
    np.testing.assert_allclose(attention.numpy()[:, 0], expected, rtol=1e-6)


def test_attention_uses_the_previous_output():
    layer = random_layer()
    _, before = call(layer, return_attention=True)
    changed = X.copy()
    changed[:, 2] += 1
    _, after = call(layer, changed, return_attention=True)
    np.testing.assert_array_equal(after.numpy()[:, :3], before.numpy()[:, :3])
    assert np.abs(after.numpy()[0, 3] - before.numpy()[0, 3]).max() > 1e-3


@pytest.mark.parametrize("projection", [None, PROJECTION])
def test_equals_the_projected_lstm_without_a_context(projection):
    layer = random_layer(projection)
    layer.context_kernel.assign(np.zeros(layer.context_kernel.shape))
    lstm = ProjectedLSTM(UNITS, projection, return_sequences=True, dtype="float64")
    lstm.build((None, None, D))
    values = weights_of(layer)
    for weight in lstm.weights:
        weight.assign(values[weight.name])
    np.testing.assert_allclose(call(layer).numpy(), lstm(X).numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("projection", [None, PROJECTION])
def test_steps_equal_a_call(projection, kind):
    layer = random_layer(projection, attention=kind)
    expected, expected_attention = call(layer, return_attention=True)
    memory, mask = tf.constant(MEMORY), tf.constant(MASK)
    source, states = layer.prepared(memory, mask), layer.initial_state(2)
    assert [state.shape for state in states] == [(2, projection or UNITS), (2, UNITS)]
    for t in range(X.shape[1]):
        output, states, attention = layer.step(tf.constant(X[:, t]), states, source)
        np.testing.assert_allclose(output.numpy(), expected.numpy()[:, t], rtol=0, atol=1e-12)
        np.testing.assert_allclose(
            attention.numpy(), expected_attention.numpy()[:, t], rtol=0, atol=1e-7
        )
        np.testing.assert_array_equal(states[0].numpy(), output.numpy())


def test_steps_in_mixed_bfloat16():
    layer = random_layer(dtype="mixed_bfloat16")
    x, memory = tf.constant(X, tf.bfloat16), tf.constant(MEMORY, tf.bfloat16)
    expected = layer(x, memory, tf.constant(MASK))
    assert expected.dtype == tf.bfloat16
    source, states = layer.prepared(memory, tf.constant(MASK)), layer.initial_state(2)
    for t in range(X.shape[1]):
        output, states, _ = layer.step(x[:, t], states, source)
        assert output.dtype == tf.bfloat16
        a, b = (tf.cast(value, tf.float32).numpy() for value in (output, expected[:, t]))
        np.testing.assert_allclose(a, b, rtol=0, atol=0.05)


OUTPUT_WEIGHTS = RNG.standard_normal((2, 5, PROJECTION))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_against_finite_differences(kind):
    layer = random_layer(attention=kind)
    x, memory = tf.constant(X), tf.constant(MEMORY)
    with tf.GradientTape() as tape:
        tape.watch([x, memory])
        total = tf.reduce_sum(layer(x, memory, tf.constant(MASK)) * OUTPUT_WEIGHTS)
    gradients = tape.gradient(total, [x, memory, *layer.trainable_variables])
    names = ["x", "memory", *(weight.name for weight in layer.trainable_variables)]
    assert sorted(names) == sorted(
        ["x", "memory", "kernel", "context_kernel", "bias", "recurrent_kernel",
         "projection_kernel", "source_kernel", "query_kernel", "scale"]
    )  # fmt: skip
    values = {"x": X, "memory": MEMORY, **weights_of(layer)}

    def total_by_numpy(values):
        outputs, _ = recurrence(values["x"], values["memory"], MASK, values, kind)
        return np.sum(outputs * OUTPUT_WEIGHTS)

    for name, gradient in zip(names, gradients, strict=True):
        numerical = np.zeros(values[name].shape)
        for index in np.ndindex(numerical.shape):
            sides = []
            for step in (1e-5, -1e-5):
                shifted = values[name].copy()
                shifted[index] += step
                sides.append(total_by_numpy({**values, name: shifted}))
            numerical[index] = (sides[0] - sides[1]) / 2e-5
        np.testing.assert_allclose(gradient.numpy(), numerical, rtol=0, atol=1e-5, err_msg=name)
        assert np.abs(numerical).max() > 1e-3, name


@pytest.mark.parametrize("return_attention", [False, True])
def test_function_with_unknown_batch_and_length(return_attention):
    layer = random_layer()
    traces = []

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, D], tf.float64),
            tf.TensorSpec([None, None, D], tf.float64),
            tf.TensorSpec([None, None], tf.bool),
        ]
    )
    def step(x, memory, mask):
        traces.append(1)
        with tf.GradientTape() as tape:
            outputs = layer(x, memory, mask, return_attention=return_attention)
            total = tf.reduce_sum(outputs[0] if return_attention else outputs)
        return outputs, tape.gradient(total, layer.trainable_variables)

    for rows, steps, sources in [(2, 5, 4), (1, 3, 2), (2, 1, 1), (0, 5, 4)]:
        x, memory, mask = X[:rows, :steps], MEMORY[:rows, :sources], MASK[:rows, :sources]
        outputs, gradients = step(x, memory, mask)
        expected = call(layer, x, memory, mask, return_attention=return_attention)
        for a, b in zip(tf.nest.flatten(outputs), tf.nest.flatten(expected), strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=0, atol=1e-6)
        assert all(np.all(np.isfinite(gradient)) for gradient in gradients)
    assert len(traces) == 1


def test_padding_of_the_source_has_no_influence():
    layer = random_layer()
    results = []
    for padding, num_added in [(0.0, 0), (5.0, 0), (-1e30, 3)]:
        memory = np.where(MASK[..., None], MEMORY, padding)
        memory = np.pad(memory, [(0, 0), (0, num_added), (0, 0)], constant_values=padding)
        mask = np.pad(MASK, [(0, 0), (0, num_added)])
        with tf.GradientTape() as tape:
            outputs, attention = call(layer, memory=memory, mask=mask, return_attention=True)
            total = tf.reduce_sum(outputs**2)
        gradients = tape.gradient(total, layer.trainable_variables)
        assert not attention.numpy()[1, :, 2:].any()
        results.append([outputs, attention[:, :, :4], *gradients])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=0, atol=1e-5)
    alone = call(layer, X[1:], MEMORY[1:, :2], None).numpy()
    np.testing.assert_allclose(alone[0], results[0][0].numpy()[1], rtol=0, atol=1e-6)


def test_source_of_padding_only_is_finite():
    layer = random_layer()
    mask = MASK.copy()
    mask[1] = False
    with tf.GradientTape() as tape:
        outputs, attention = call(layer, mask=mask, return_attention=True)
        total = tf.reduce_sum(outputs)
    for value in (outputs, *tape.gradient(total, layer.trainable_variables)):
        assert np.all(np.isfinite(value.numpy()))
    assert not attention.numpy()[1].any()
    expected = call(layer).numpy()
    np.testing.assert_allclose(outputs.numpy()[0], expected[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("projection", [None, PROJECTION])
@pytest.mark.parametrize("attention_units", [None, 7])
def test_shapes_and_counts(projection, attention_units):
    width = projection or UNITS
    layer = random_layer(projection, attention_units=attention_units)
    shape = layer.compute_output_shape((None, None, D), (None, None, D))
    assert shape == (None, None, width)
    ops = 4 * (2 * D + width) * UNITS + (UNITS * projection if projection else 0)
    assert layer.ops_per_timestep(D) == ops
    attention = (width + D + 1) * (attention_units or width)
    assert layer.count_params() == ops + 4 * UNITS + attention
    assert layer.attention.units == (attention_units or width)


def test_operations_of_the_papers_layer():
    # LSTM-2048-512 with the embedding and the context as inputs.
    expected = 4 * (2 * 512 + 512) * 2048 + 2048 * 512
    assert AttentionLSTM(2048, 512).ops_per_timestep(512) == expected == 13_631_488
    # The context accounts for 4.2M.
    without = ProjectedLSTM(2048, 512).ops_per_timestep(512)
    assert expected - without == 4_194_304


def test_forget_gates_start_at_one():
    layer = AttentionLSTM(2)
    layer.build((None, None, D), (None, None, D))
    np.testing.assert_array_equal(layer.bias.numpy(), [0, 0, 1, 1, 0, 0, 0, 0])


def test_config_round_trip():
    layer = AttentionLSTM(UNITS, PROJECTION, 7, "additive", name="layer", dtype="float64")
    for restored in (
        AttentionLSTM.from_config(layer.get_config()),
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer)),
    ):
        assert restored.get_config() == layer.get_config()
        assert (restored.cell.units, restored.cell.projection_units) == (UNITS, PROJECTION)
        assert (restored.attention.units, restored.attention.kind) == (7, "additive")
        assert restored.attention.compute_dtype == restored.cell.compute_dtype == "float64"
    assert AttentionLSTM.from_config(AttentionLSTM(UNITS).get_config()).attention_units is None


def test_save_and_load(tmp_path):
    inputs, memory = keras.Input([None, D]), keras.Input([None, D])
    mask = keras.Input([None], dtype="bool")
    layer = AttentionLSTM(UNITS, PROJECTION, name="layer")
    outputs = layer(inputs, memory, memory_mask=mask)
    assert tuple(outputs.shape) == (None, None, PROJECTION)
    model = keras.Model([inputs, memory, mask], outputs)
    model.save(tmp_path / "m.keras")
    restored = keras.saving.load_model(tmp_path / "m.keras", safe_mode=True)
    arrays = [tf.constant(array) for array in (X.astype("f"), MEMORY.astype("f"), MASK)]
    expected = model(arrays).numpy()
    np.testing.assert_array_equal(restored(arrays).numpy(), expected)
    assert np.abs(expected).max() > 1e-3
    assert restored.get_layer("layer").get_config() == layer.get_config()
    weights = restored.get_layer("layer").weights
    assert [weight.path for weight in weights] == [weight.path for weight in layer.weights]
    for a, b in zip(weights, layer.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=b.path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"units": 0}, "units must be an integer of at least 1, got 0"),
        ({"units": 2, "projection_units": 0}, "projection_units must be an integer of at least 1"),
        ({"units": 2, "attention_units": 0}, "units must be an integer of at least 1, got 0"),
        ({"units": 2, "attention": "dot"}, "must be one of multiplicative, additive, got 'dot'"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        AttentionLSTM(**arguments)


def test_error_names_attention_units():
    with pytest.raises(ValueError, match=r"^attention_units must be an integer of at least 1"):
        AttentionLSTM(2, attention_units=0)


def test_memory_of_another_width():
    message = "memory of lstm must be as wide as its inputs, 3, got 4"
    with pytest.raises(ValueError, match=message):
        AttentionLSTM(2, name="lstm").build((None, None, 3), (None, None, 4))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_symbolic_outputs_with_attention(policy):
    inputs, memory = keras.Input([5, D]), keras.Input([4, D])
    layer = AttentionLSTM(UNITS, PROJECTION, dtype=policy)
    outputs, attention = layer(inputs, memory, return_attention=True)
    assert (outputs.shape, attention.shape) == ((None, 5, PROJECTION), (None, 5, 4))
    assert (outputs.dtype, attention.dtype) == (layer.compute_dtype, "float32")
