import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.gating import NoisyTopK
from tfmoe.layers import CrossAttention, FeedForward, MoE, ProjectedLSTM, Residual

X = np.random.default_rng(0).standard_normal((2, 3, 5)).astype("float32")


def test_by_hand():
    layer = Residual(keras.layers.Dense(2, use_bias=False), activation="sigmoid")
    layer.build((None, 2))
    layer.layer.set_weights([np.array([[0.0, 1.0], [0.0, 0.0]])])
    # The layer converts (3, 8) to (0, 3): σ(0) = 1/2, σ(3) = 0.9526.
    result = layer(np.array([[3.0, 8.0]])).numpy()
    np.testing.assert_allclose(result, [[3.5, 8 + 1 / (1 + np.exp(-3))]], rtol=1e-6)


def test_without_the_residual_connection_by_hand():
    layer = Residual(keras.layers.Identity(), activation="relu", dropout=0.5, residual=False)
    x = np.array([[3.0, -8.0]])
    np.testing.assert_array_equal(layer(x).numpy(), [[3, 0]])
    np.testing.assert_array_equal(layer.step(x, ())[0].numpy(), [[3, 0]])
    # Dropped elements are 0, kept elements 1 / (1 - 0.5).
    values = np.unique(layer(np.ones((100, 10), "float32"), training=True).numpy())
    np.testing.assert_array_equal(values, [0, 2])


def test_dropout_of_the_layer_output_in_training():
    layer = Residual(keras.layers.Identity(), dropout=0.5, seed=1)
    x = np.ones((100, 10), "float32")
    np.testing.assert_array_equal(layer(x).numpy(), 2)
    # Dropped elements are 1 + 0, kept elements 1 + 1 / (1 - 0.5).
    values, counts = np.unique(layer(x, training=True).numpy(), return_counts=True)
    np.testing.assert_array_equal(values, [1, 3])
    np.testing.assert_allclose(counts, 500, atol=80)


def test_training_and_mask_reach_the_layer():
    moe = MoE(4, 7, gate=NoisyTopK(k=2, importance_weight=1.0))
    layer = Residual(moe)
    mask = np.array([[True, False, False], [True, True, False]])
    y = layer(X, mask=tf.constant(mask), training=True).numpy()
    np.testing.assert_array_equal(y[~mask], X[~mask])
    assert np.abs(y[mask] - X[mask]).max() > 1e-3
    assert len(layer.losses) == 1


@pytest.mark.parametrize(
    "inner", [FeedForward(7), ProjectedLSTM(6, 5, return_sequences=True), MoE(4, 7)]
)
def test_counts_equal_those_of_the_layer(inner):
    layer = Residual(inner)
    assert layer.ops_per_timestep(5) == inner.ops_per_timestep(5)
    assert layer.gate_ops_per_timestep(5) == inner.gate_ops_per_timestep(5)
    assert layer(X, mask=tf.ones([2, 3], tf.bool)).shape == X.shape
    assert layer.trainable_weights == inner.trainable_weights


@pytest.mark.parametrize(
    "inner", [FeedForward(7), ProjectedLSTM(6, 5, return_sequences=True), MoE(4, 7)]
)
def test_steps_equal_those_of_the_layer(inner):
    layer = Residual(inner, activation="tanh", dropout=0.2)
    expected = layer(X).numpy()
    assert layer.is_causal == inner.is_causal
    state, outputs = layer.initial_state(2), []
    assert tf.nest.map_structure(np.shape, state) == tf.nest.map_structure(
        np.shape, inner.initial_state(2)
    )
    for t in range(3):
        output, state = layer.step(X[:, t], state)
        outputs.append(output)
    np.testing.assert_allclose(np.stack(outputs, axis=1), expected, rtol=0, atol=1e-6)


def test_kept_by_hand():
    inner = MoE(4, 7, gate=NoisyTopK(k=2), recompute=True)
    kept = inner.kept_for_backward(5)
    plain, with_dropout = (
        Residual(inner, activation, dropout).kept_for_backward(5)
        for activation, dropout in ((None, 0.0), ("sigmoid", 0.1))
    )
    assert plain == kept
    # The input of the normalization.
    normalized = Residual(inner, norm="rms").kept_for_backward(5)
    assert normalized == kept._replace(always=kept.always + 4 * 5)
    # The output of the sigmoid in float32, and a byte for each of 5 elements.
    assert with_dropout == (kept.always + 4 * 5 + 5, 4 * 2 * 7, True)


@pytest.mark.parametrize(
    ("norm", "expected"),
    # (6, 8) has mean 7, standard deviation 1 and root mean square √50.
    [("layer", [6 - 1, 8 + 1]), ("rms", [6 + 6 / 50**0.5, 8 + 8 / 50**0.5])],
)
def test_normalization_by_hand(norm, expected):
    layer = Residual(keras.layers.Identity(), norm=norm)
    x = np.array([[6.0, 8.0]])
    np.testing.assert_allclose(layer(x), [expected], rtol=1e-5)
    np.testing.assert_allclose(layer.step(x, ())[0], [expected], rtol=1e-5)
    assert [weight.name for weight in layer.weights] == {
        "layer": ["gamma", "beta"], "rms": ["scale"]
    }[norm]  # fmt: skip


def test_a_layer_that_attends_to_a_source():
    layer = Residual(CrossAttention(1), activation="tanh", norm="rms")
    memory, mask = 2 * X[:, ::-1], tf.constant([[True, False, True], [True, True, True]])
    expected = layer(X, memory=memory, memory_mask=mask)
    normalized = X / np.sqrt(np.mean(X**2, axis=-1, keepdims=True))
    by_hand = X + np.tanh(layer.layer(normalized, memory, memory_mask=mask))
    np.testing.assert_allclose(expected, by_hand, rtol=0, atol=1e-5)
    output, weights = layer.with_attention(X, memory, mask)
    np.testing.assert_array_equal(output, expected)
    np.testing.assert_array_equal(weights[0, :, 1], 0)
    output, _, step_weights = layer.step(X[:, 1], (), layer.prepared(memory, mask))
    np.testing.assert_allclose(output, expected[:, 1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(step_weights, weights[:, 1], rtol=0, atol=1e-6)


def test_keras_layers_have_the_defaults_of_blocks():
    layer = Residual(keras.layers.Dense(5, name="dense"))
    expected = layer(X).numpy()
    assert (layer.is_causal, layer.needs_memory, layer.initial_state(2)) == (False, False, ())
    output, state = layer.step(X[:, 1], ())
    np.testing.assert_allclose(output, expected[:, 1], rtol=0, atol=1e-6)
    assert (state, layer.gate_ops_per_timestep(5), layer.kept_of_source(5)) == ((), 0, 0)
    for count in (layer.ops_per_timestep, layer.kept_for_backward):
        with pytest.raises(NotImplementedError, match=r"dense, a Dense, must implement .*counted"):
            count(5)


@pytest.mark.parametrize(
    "inner",
    [
        FeedForward(7, name="inner"),
        ProjectedLSTM(6, 5, return_sequences=True, name="inner"),
        MoE(4, 7, gate=NoisyTopK(k=2), name="inner"),
    ],
)
def test_save_and_load(inner, tmp_path):
    layer = Residual(inner, activation="sigmoid", dropout=0.3, seed=4, residual=False, norm="rms")
    model = keras.Sequential([keras.Input((None, 5)), layer])
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded(X).numpy(), model(X).numpy())
    assert loaded.count_params() == model.count_params()
    loaded = loaded.layers[0]
    loaded = (loaded.dropout.rate, loaded.seed, loaded.residual, loaded.norm)
    assert loaded == (0.3, 4, False, "rms")


@pytest.mark.parametrize(
    "inner", [keras.layers.Dense(4), ProjectedLSTM(4, return_sequences=True), ProjectedLSTM(5)]
)
def test_a_layer_that_changes_the_shape_raises_an_error(inner):
    with pytest.raises(ValueError, match=r"keeps the shape: .*projection_units=5"):
        Residual(inner)(np.zeros((3, 3, 5), "float32"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": "lstm"}, "layer must be a Keras layer, got 'lstm'"),
        ({"layer": FeedForward}, "layer must be a Keras layer, got"),
        ({"dropout": 1}, "dropout must be a number of at least 0 and below 1, got 1"),
        ({"dropout": -0.1}, "dropout must be a number of at least 0 and below 1, got -0.1"),
        ({"dropout": "0.5"}, "dropout must be a number of at least 0 and below 1, got '0.5'"),
        ({"residual": 1}, "residual must be True or False, got 1"),
        ({"norm": "batch"}, "norm must be one of 'rms', 'layer', got 'batch'"),
        ({"seed": "1"}, "seed must be an integer or None, got '1'"),
        ({"activation": "sigmoide"}, "activation must be a Keras activation, .*'sigmoide'"),
        ({"activation": keras.layers.PReLU()}, "activation must be a function without variables"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Residual(**{"layer": FeedForward(3), **arguments})


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_epsilon_by_hand(norm):
    layer = Residual(keras.layers.Identity(), norm=norm, norm_epsilon=3.0, residual=False)
    x = np.array([[1.0, -1.0]])  # mean 0, mean square and variance 1, so 1 / √(1 + 3)
    np.testing.assert_allclose(layer(x), x / 2, rtol=1e-6)
    assert Residual.from_config(layer.get_config()).normalization.epsilon == 3.0
    with pytest.raises(ValueError, match="norm_epsilon must be a finite number above 0, got 0"):
        Residual(keras.layers.Identity(), norm=norm, norm_epsilon=0)
    with pytest.raises(ValueError, match="norm_epsilon must be left out without norm, got 3"):
        Residual(keras.layers.Identity(), norm_epsilon=3.0)
