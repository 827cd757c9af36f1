"""Files of sparse models are those of KerasHub."""

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from small_backbones import BACKBONES, inputs, randomize

from tfmoe.inspection import mixtures_of
from tfmoe.keras_hub import route, sparsify

FAMILIES = pytest.mark.parametrize(
    "family",
    [
        "gpt_oss",
        *(pytest.param(f, marks=pytest.mark.slow) for f in sorted(set(BACKBONES) - {"gpt_oss"})),
    ],
)


def contents(path):
    """The groups and arrays of an HDF5 file, `{path: values or None}`."""
    found = {}

    def visit(name, item):
        found[name] = item[()] if hasattr(item, "shape") else None

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


@FAMILIES
def test_files(family, tmp_path):
    make = BACKBONES[family]
    model = randomize(make())
    batch, config = inputs(model), model.get_config()
    outputs = model(batch)
    model.save_weights(tmp_path / "dense.weights.h5")
    sparsify(model)
    assert model.get_config() == config
    model.save_weights(tmp_path / "sparse.weights.h5")
    model.save(tmp_path / "sparse.keras")
    files = [contents(tmp_path / f"{name}.weights.h5") for name in ("dense", "sparse")]
    assert list(files[0]) == list(files[1])
    for name, values in files[0].items():
        np.testing.assert_array_equal(files[1][name], values)

    dense = randomize(make(), seed=1)
    dense.load_weights(tmp_path / "sparse.weights.h5")
    np.testing.assert_array_equal(dense(batch), outputs)
    sparse = sparsify(randomize(make(), seed=1))
    sparse.load_weights(tmp_path / "dense.weights.h5")
    np.testing.assert_allclose(sparse(batch), outputs, atol=1e-5)
    loaded = keras.saving.load_model(tmp_path / "sparse.keras")
    assert not mixtures_of(loaded)
    np.testing.assert_array_equal(loaded(batch), outputs)


@pytest.mark.slow
@pytest.mark.parametrize("family", BACKBONES)
def test_presets(family, tmp_path):
    model = randomize(BACKBONES[family]())
    batch = inputs(model)
    outputs = model(batch)
    sparsify(model).save_to_preset(tmp_path)
    loaded = type(model).from_preset(str(tmp_path))
    np.testing.assert_array_equal(loaded(batch), outputs)
    np.testing.assert_allclose(sparsify(loaded)(batch), outputs, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(set(BACKBONES) - {"qwen3_5_moe"}))  # fails in KerasHub
def test_export(family, tmp_path):
    model = sparsify(randomize(BACKBONES[family]()))
    batch = {name: tf.convert_to_tensor(value) for name, value in inputs(model).items()}
    archive = keras.export.ExportArchive()
    archive.track(model)
    signature = [{name: tf.TensorSpec([None, None], tf.int32, name) for name in batch}]
    archive.add_endpoint("serve", model.call, signature)
    archive.add_endpoint("route", lambda inputs: route(model, inputs), signature)
    archive.write_out(str(tmp_path), verbose=False)
    exported = tf.saved_model.load(str(tmp_path))
    np.testing.assert_allclose(exported.serve(batch), model(batch), atol=1e-5)
    expected = route(model, batch)
    for name, values in exported.route(batch).items():
        np.testing.assert_allclose(values, expected[name], atol=1e-5)
