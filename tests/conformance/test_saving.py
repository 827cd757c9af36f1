"""Files of every layer, saved by Keras and by TensorFlow."""

import keras
import numpy as np
import pytest
import tensorflow as tf

RNG = np.random.default_rng(1)


def randomize(layer):
    for variable in layer.variables:
        values = RNG.uniform(1, 9, variable.shape)
        variable.assign(values.astype(keras.backend.standardize_dtype(variable.dtype)))


def assert_same_variables(actual, expected):
    assert_same(actual.variables, expected.variables)


def assert_same(actual, expected):
    assert actual
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=b.path)


@pytest.fixture
def saved(case):
    """A layer with random values that no initializer returns."""
    layer = case.built()
    randomize(layer)
    return layer


def test_tensorflow_reaches_every_variable(case):
    layer = case.built()
    reached = {id(child) for child in tf.train.TrackableView(layer).descendants()}
    hidden = [variable.path for variable in layer.variables if id(variable) not in reached]
    assert layer.variables and not hidden


def test_tensorflow_checkpoint(case, saved, tmp_path):
    path = tf.train.Checkpoint(layer=saved).save(str(tmp_path / "checkpoint"))
    restored = case.built()
    status = tf.train.Checkpoint(layer=restored).restore(path)
    status.assert_existing_objects_matched()
    status.assert_consumed()
    assert_same_variables(restored, saved)


def test_tensorflow_checkpoint_restored_before_the_layer_is_built(case, saved, tmp_path):
    path = tf.train.Checkpoint(saved).write(str(tmp_path / "checkpoint"))
    restored = case.make()
    status = tf.train.Checkpoint(restored).read(path)
    case.call(restored)
    status.assert_consumed()
    assert_same_variables(restored, saved)


def test_tensorflow_checkpoint_manager_keeps_the_last(case, saved, tmp_path):
    module = tf.Module()  # a TensorFlow object that contains a layer
    module.layers = [saved]
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(module), str(tmp_path), max_to_keep=1)
    for _ in range(2):
        randomize(saved)
        manager.save()
    restored = case.built()
    holder = tf.Module()
    holder.layers = [restored]
    checkpoint = tf.train.Checkpoint(holder)
    checkpoint.restore(manager.latest_checkpoint).assert_consumed()
    assert_same_variables(restored, saved)


def test_tensorflow_checkpoint_of_another_layer_raises_an_error(case, tmp_path):
    other = keras.layers.BatchNormalization()
    other.build((None, 3))
    path = tf.train.Checkpoint(other).write(str(tmp_path / "checkpoint"))
    with pytest.raises(AssertionError):
        tf.train.Checkpoint(case.built()).read(path).assert_existing_objects_matched()


def test_saved_model_of_tensorflow(case, saved, tmp_path):
    module = tf.Module()
    module.layer = saved

    def spec(x):
        return tf.TensorSpec([None, *x.shape[1:]], x.dtype)

    signature = keras.tree.map_structure(spec, case.inputs)
    module.call = tf.function(lambda *x: case.call(saved, x), input_signature=signature)
    tf.saved_model.save(module, str(tmp_path / "saved"))
    expected = case.call(saved)
    randomize(saved)
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    for a, b in zip(loaded.call(*case.inputs), expected, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5)


def test_export_of_keras(case, saved, tmp_path):
    model = case.functional(saved)
    model.export(str(tmp_path / "exported"), verbose=False)
    expected = model(case.model_inputs).numpy()
    loaded = tf.saved_model.load(str(tmp_path / "exported"))
    actual = loaded.serve(case.model_inputs)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-5)
    assert len(loaded.variables) >= len(model.weights)


def test_keras_file(case, saved, tmp_path):
    model = case.functional(saved)
    model.save(tmp_path / "model.keras")
    restored = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    expected = model(case.model_inputs).numpy()
    np.testing.assert_array_equal(restored(case.model_inputs).numpy(), expected)
    layer = restored.get_layer(saved.name)
    assert [weight.name for weight in layer.weights] == [weight.name for weight in saved.weights]
    assert_same(layer.weights, saved.weights)  # Keras' files contain no random generators


def test_weights_file(case, saved, tmp_path):
    model = case.functional(saved)
    model.save_weights(tmp_path / "model.weights.h5")
    restored = case.make()
    case.functional(restored).load_weights(tmp_path / "model.weights.h5")
    assert_same(restored.weights, saved.weights)
