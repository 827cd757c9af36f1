"""Files of Keras under a strategy: a device reads its experts only."""

import keras
import numpy as np
import pytest

from tfmoe.distribute import keras_files
from tfmoe.gating import NoisyTopK
from tfmoe.layers import MoE
from tfmoe.optimizers import FactoredAdam

X = np.random.default_rng(0).standard_normal([8, 6]).astype("float32")


def trained_model():
    inputs = keras.Input([6])
    outputs = MoE(6, 10, gate=NoisyTopK(k=2, noise=False))(inputs)
    model = keras.Model(inputs, outputs)
    model.compile(FactoredAdam(0.01, factored="none"), "mse")
    model.fit(X, X, verbose=0)
    return model


def values(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [variable.numpy() for variable in variables if "seed" not in variable.path]


@pytest.fixture
def reads(monkeypatch):
    """Makes all arrays of 1,000 bytes large, and records the bytes of every read of one."""
    monkeypatch.setattr(keras_files, "READ_BYTES", 1000)
    sizes = []
    original = keras_files.SavedArray.__getitem__

    def record(array, index):
        rows = original(array, index)
        sizes.append(rows.nbytes)
        return rows

    monkeypatch.setattr(keras_files.SavedArray, "__getitem__", record)
    return sizes


def test_weights_and_slots_of_a_keras_file(strategy_of, tmp_path, reads):
    path = tmp_path / "model.keras"
    model = trained_model()
    model.save(path)
    with strategy_of(2).scope():
        loaded = keras.models.load_model(path)
    for actual, expected in zip(values(loaded), values(model), strict=True):
        np.testing.assert_array_equal(actual, expected)
    # 2 kernels with 2 slots each, `[6, 6, 10]`; at most 4 experts of 240 bytes are read at once.
    assert len(reads) == 12 and set(reads) == {3 * 240}


def test_file_of_weights(strategy_of, tmp_path, reads):
    path = tmp_path / "model.weights.h5"
    model = trained_model()
    model.save_weights(path)
    with strategy_of(2).scope():
        loaded = trained_model()
    loaded.load_weights(path)
    for actual, expected in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(actual, expected)
    assert sum(reads) >= 2 * 6 * 240


def test_a_layer_can_compute_with_what_a_file_holds(strategy_of, tmp_path, reads):
    """Such a layer gets a NumPy array from Keras."""
    strategy_of(2)

    class Doubled(keras.layers.Dense):
        def load_own_variables(self, store):
            self.kernel.assign(store["0"] * 2 + np.zeros_like(store["0"]))
            self.bias.assign(store["1"].reshape(-1))

    dense = keras.Sequential([keras.Input([20]), Doubled(30)])
    dense.save_weights(tmp_path / "dense.weights.h5")
    model = keras.Sequential([keras.Input([20]), Doubled(30)])
    model.load_weights(tmp_path / "dense.weights.h5")
    np.testing.assert_array_equal(model.get_weights()[0], 2 * dense.get_weights()[0])


def test_array_of_another_shape_raises_the_error_of_keras(strategy_of, tmp_path, reads):
    path = tmp_path / "model.weights.h5"
    trained_model().save_weights(path)
    with strategy_of(2).scope():
        model = keras.Sequential([keras.Input([6]), MoE(6, 11, gate=NoisyTopK(k=2))])
    with pytest.raises(ValueError, match="shape"):
        model.load_weights(path)
