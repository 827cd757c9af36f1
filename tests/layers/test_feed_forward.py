import keras
import numpy as np
import pytest

from tfmoe.layers import FeedForward

X = np.random.default_rng(0).standard_normal((2, 3, 5)).astype("float32")


def test_by_hand():
    layer = FeedForward(2)
    layer.build((None, 2))
    layer.set_weights([np.array([[1.0, -1.0], [2.0, 1.0]]), np.array([[3.0, 0.0], [1.0, 1.0]])])
    # (1, 2) → (5, 1) → (16, 1); (2, -1) → (0, -3), after ReLU (0, 0) → (0, 0).
    result = layer(np.array([[1.0, 2.0], [2.0, -1.0]])).numpy()
    np.testing.assert_allclose(result, [[16, 1], [0, 0]])


@pytest.mark.parametrize(
    ("options", "ops", "parameters"),
    [
        ({}, 2 * 5 * 7, 70),
        ({"use_bias": True}, 70, 70 + 7 + 5),
        # MoE-1-Deep has four hidden layers: three matrices between them.
        ({"depth": 4, "use_bias": True}, 70 + 3 * 49, 70 + 147 + 4 * 7 + 5),
        # Two matrices for each hidden layer.
        ({"gated": True}, 3 * 5 * 7, 105),
        ({"gated": True, "depth": 2, "use_bias": True}, 105 + 2 * 49, 105 + 98 + 4 * 7 + 5),
    ],
)
def test_operations_and_parameters(options, ops, parameters):
    layer = FeedForward(7, **options)
    assert layer.ops_per_timestep(5) == ops
    assert layer(X).shape == X.shape
    assert layer.count_params() == parameters


def test_gated_by_hand():
    layer = FeedForward(1, gated=True)
    layer.build((None, 2))
    layer.set_weights([np.array([[1.0, 2.0], [1.0, -1.0]]), np.array([[1.0, 10.0]])])
    # (1, 2): gate 3, up 0 → 0. (2, 1): gate 3, up 3 → 9. (-2, 1): gate -1 → 0.
    result = layer(np.array([[1.0, 2.0], [2.0, 1.0], [-2.0, 1.0]])).numpy()
    np.testing.assert_allclose(result, [[0, 0], [9, 90], [0, 0]])


@pytest.mark.parametrize("initializer", ["orthogonal", keras.initializers.Orthogonal(seed=3)])
def test_matrices_of_a_gated_layer_are_initialized_separately(initializer):
    layer = FeedForward(6, gated=True, kernel_initializer=initializer)
    layer.build((None, 6))
    first, second = np.split(layer.dense[0].kernel.numpy(), 2, axis=1)
    for matrix in (first, second):
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(6), atol=1e-5)
    assert np.abs(first - second).max() > 0.1


@pytest.mark.parametrize("gated", [False, True])
def test_save_and_load(tmp_path, gated):
    layer = FeedForward(7, depth=2, activation="tanh", use_bias=True, gated=gated)
    model = keras.Sequential([keras.Input((None, 5)), layer])
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded(X).numpy(), model(X).numpy())
    assert loaded.layers[0].get_config() == layer.get_config()


def test_mask_passes_through():
    layer = FeedForward(7)
    embedded = keras.layers.Embedding(9, 5, mask_zero=True)(np.array([[1, 2, 0]]))
    np.testing.assert_array_equal(layer(embedded)._keras_mask.numpy(), [[True, True, False]])


@pytest.mark.parametrize(("name", "value"), [("hidden_units", 0), ("depth", 1.5)])
def test_wrong_arguments(name, value):
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1, got {value}"):
        FeedForward(**{"hidden_units": 4, name: value})


def test_function_as_initializer():
    def ones(shape, dtype=None):
        return np.ones(shape, dtype)

    layer = FeedForward(7, kernel_initializer=ones)
    layer.build((None, 5))
    assert all(np.all(weight.numpy() == 1) for weight in layer.weights)


@pytest.mark.parametrize("value", ["no", 0, None])
def test_use_bias_must_be_boolean(value):
    with pytest.raises(ValueError, match=f"use_bias must be True or False, got {value!r}"):
        FeedForward(7, use_bias=value)
