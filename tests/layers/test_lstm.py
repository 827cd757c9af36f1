import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.layers import ProjectedLSTM, ProjectedLSTMCell

D, UNITS, PROJECTION = 3, 4, 2
X = np.random.default_rng(0).standard_normal((2, 5, D))
MASK = np.array([[True, True, True, False, False], [True, False, True, True, True]])


def random_layer(**arguments):
    layer = ProjectedLSTM(UNITS, dtype="float64", **arguments)
    layer.build((None, None, D))
    rng = np.random.default_rng(1)
    for weight in layer.weights:
        weight.assign(rng.standard_normal(weight.shape))
    return layer


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def projected_by_numpy(layer, x, mask, r, c):
    """The outputs of all steps and the last states, step by step."""
    kernel, bias = layer.kernel.numpy(), layer.bias.numpy()
    recurrent = layer.cell.recurrent_kernel.numpy()
    projection = layer.cell.projection_kernel.numpy()
    outputs, output = [], np.zeros_like(r)
    for step in range(x.shape[1]):
        i, f, g, o = np.split(x[:, step] @ kernel + bias + r @ recurrent, 4, axis=1)
        new_c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        new_r = (sigmoid(o) * np.tanh(new_c)) @ projection
        is_real = mask[:, step, None]
        r, c = np.where(is_real, new_r, r), np.where(is_real, new_c, c)
        output = np.where(is_real, new_r, output)
        outputs.append(output)
    return np.stack(outputs, axis=1), r, c


@pytest.mark.parametrize("mask", [None, MASK], ids=["no mask", "mask"])
@pytest.mark.parametrize("return_sequences", [False, True])
def test_equals_the_keras_lstm_without_a_projection(return_sequences, mask):
    layer = random_layer(return_sequences=return_sequences)
    keras_lstm = keras.layers.LSTM(UNITS, return_sequences=return_sequences, dtype="float64")
    keras_lstm.build((None, None, D))
    weights = [layer.kernel, layer.cell.recurrent_kernel, layer.bias]
    keras_lstm.set_weights([weight.numpy() for weight in weights])
    x = tf.constant(X)
    mask = None if mask is None else tf.constant(mask)
    results = []
    for lstm, variables in ((layer, weights), (keras_lstm, keras_lstm.trainable_variables)):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = lstm(x, mask=mask)
            total = tf.reduce_sum(y**2)
        results.append([y, *tape.gradient(total, [x, *variables])])
    for actual, expected in zip(*results, strict=True):
        np.testing.assert_allclose(actual.numpy(), expected.numpy(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("mask", [None, MASK], ids=["no mask", "mask"])
@pytest.mark.parametrize("with_states", [False, True])
def test_projected_against_a_loop(with_states, mask):
    layer = random_layer(projection_units=PROJECTION, return_sequences=True, return_state=True)
    r, c = np.zeros((2, PROJECTION)), np.zeros((2, UNITS))
    if with_states:
        rng = np.random.default_rng(5)
        r, c = rng.standard_normal(r.shape), rng.standard_normal(c.shape)
    no_mask = np.ones(MASK.shape, bool)
    expected = projected_by_numpy(layer, X, no_mask if mask is None else mask, r, c)
    actual = layer(
        X,
        mask=None if mask is None else tf.constant(mask),
        initial_state=[tf.constant(r), tf.constant(c)] if with_states else None,
    )
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=0, atol=1e-12)


def test_states_continue_a_sequence():
    layer = random_layer(projection_units=PROJECTION, return_sequences=True, return_state=True)
    whole = layer(X)[0].numpy()
    first, *states = layer(X[:, :2])
    second = layer(X[:, 2:], initial_state=states)[0]
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), whole, atol=1e-12)


@pytest.mark.parametrize("projection", [None, PROJECTION])
def test_shapes_and_counts(projection):
    width = projection or UNITS
    assert ProjectedLSTM(UNITS, projection)(X).shape == (2, width)
    layer = ProjectedLSTM(UNITS, projection, return_sequences=True)
    assert layer.compute_output_shape((None, None, D)) == (None, None, width)
    assert layer(X).shape == (2, 5, width)
    ops = 4 * (D + width) * UNITS + (UNITS * projection if projection else 0)
    assert layer.ops_per_timestep(D) == ops
    assert layer.count_params() == ops + 4 * UNITS


def test_operations_of_the_papers_layers():
    # LSTM-2048-512: 4·(512 + 512)·2048 + 2048·512 = 9.4M (Table 7), LSTM-512: 4·1024·512 = 2.1M.
    assert ProjectedLSTM(2048, 512).ops_per_timestep(512) == 9_437_184
    assert ProjectedLSTM(512).ops_per_timestep(512) == 2_097_152


def test_forget_gates_start_at_one():
    layer = ProjectedLSTM(2)
    layer.build((None, None, D))
    np.testing.assert_array_equal(layer.bias.numpy(), [0, 0, 1, 1, 0, 0, 0, 0])


def test_save_and_load_with_unknown_batch_and_time(tmp_path):
    inputs = keras.Input([None, D])
    outputs = ProjectedLSTM(UNITS, PROJECTION, return_sequences=True, return_state=True)(inputs)
    assert [tuple(output.shape) for output in outputs] == [
        (None, None, PROJECTION), (None, PROJECTION), (None, UNITS),
    ]  # fmt: skip
    model = keras.Model(inputs, outputs)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    for a, b in zip(loaded(X), model(X), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert loaded.layers[1].get_config() == model.layers[1].get_config()


def test_mask_of_an_embedding_is_used_and_passed_on():
    embedding = keras.layers.Embedding(9, D, mask_zero=True)
    layer = ProjectedLSTM(UNITS, PROJECTION, return_sequences=True)
    y = layer(embedding(np.array([[3, 4, 0, 0]])))
    np.testing.assert_array_equal(y._keras_mask.numpy(), [[True, True, False, False]])
    last = ProjectedLSTM(UNITS, PROJECTION)
    a = last(embedding(np.array([[3, 4, 0, 0]]))).numpy()
    np.testing.assert_allclose(a, last(embedding(np.array([[3, 4]]))).numpy(), rtol=1e-6)


def test_mixed_bfloat16():
    layer = ProjectedLSTM(UNITS, PROJECTION, return_sequences=True, dtype="mixed_bfloat16")
    assert layer(X).dtype == tf.bfloat16
    assert {weight.dtype for weight in layer.weights} == {"float32"}


@pytest.mark.parametrize(("name", "value"), [("units", 0), ("projection_units", 0), ("units", 2.5)])
def test_wrong_arguments(name, value):
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1, got {value}"):
        ProjectedLSTM(**{"units": 4, name: value})


@pytest.mark.parametrize("name", ["return_sequences", "return_state"])
def test_boolean_arguments(name):
    with pytest.raises(ValueError, match=f"{name} must be True or False, got 'no'"):
        ProjectedLSTM(4, **{name: "no"})


def test_cell_built_with_another_width():
    with pytest.raises(ValueError, match=r"must have width 4·units = 16, got shape \(None, 15\)"):
        ProjectedLSTMCell(4).build((None, 15))


def test_inputs_without_steps():
    message = r"must have 3 dimensions, got shape \(None, 3\)"
    with pytest.raises(ValueError, match=message):
        ProjectedLSTM(4).build((None, D))


def test_step_of_integers():
    layer = ProjectedLSTM(UNITS)
    layer.build((None, None, D))
    x = np.arange(2 * D).reshape(2, D)
    states = layer.initial_state(2)
    actual, expected = (layer.step(inputs, states)[0].numpy() for inputs in (x, x.astype("f")))
    np.testing.assert_array_equal(actual, expected)
    assert np.abs(actual).max() > 1e-3


def test_kernels_have_independent_draws():
    layer = ProjectedLSTM(8, 8, kernel_initializer="glorot_uniform")
    layer.build((None, None, 8))
    assert np.abs(layer.kernel.numpy()[:, :8] - layer.cell.projection_kernel.numpy()).max() > 0.1
