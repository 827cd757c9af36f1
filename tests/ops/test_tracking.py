import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.ops.tracking import track


def reached(layer):
    """Paths of the variables that TensorFlow's checkpoints of a layer hold."""
    found = tf.train.TrackableView(layer).descendants()
    return {each.path for each in found if isinstance(each, keras.Variable)}


class Kept(keras.layers.Layer):
    """Keeps all its variables where TensorFlow does not look."""

    def __init__(self, tracks=True, **kwargs):
        super().__init__(name="kept", **kwargs)
        self.tracks = tracks
        self.layers = [keras.layers.Dense(2, use_bias=False, name="dense")]
        self.generator = keras.random.SeedGenerator(3, name="generator")
        self.metric = keras.metrics.Mean(name="mean")
        self.pairs = {"a": [], "b": {}}

    def call(self, inputs):
        return inputs

    def build(self, input_shape):
        for layer in self.layers:
            layer.build(input_shape)
        self.pairs["a"].append(self.add_weight(name="first", shape=(3,)))
        self.pairs["b"]["c"] = self.add_weight(name="second", shape=(4,))
        if self.tracks:
            track(self, layers=self.layers, nothing=None)
            track(self, pairs=self.pairs, generator=self.generator, metric=self.metric)


def built(tracks=True):
    layer = Kept(tracks)
    layer.build((None, 5))
    return layer


def test_what_keras_hides_is_reached():
    assert reached(built(tracks=False)) == set()
    assert {path.rsplit("/", 1)[-1] for path in reached(built())} == {
        "kernel", "first", "second", "seed_generator_state", "total", "count",
    }  # fmt: skip


def datasets(layer, path):
    """Names and values in the weights file of a model of the layer."""
    found = {}
    keras.Sequential([keras.Input((5,)), layer]).save_weights(path)
    with h5py.File(path) as file:
        file.visititems(
            lambda name, each: found.update({name: each[()]}) if hasattr(each, "shape") else None
        )
    return found


def test_keras_sees_nothing_of_it(tmp_path):
    plain, tracked = built(tracks=False), built()
    assert [each.path for each in tracked.weights] == [each.path for each in plain.weights]
    assert [each.name for each in tracked.variables] == [each.name for each in plain.variables]
    for a, b in zip(tracked.weights, plain.weights, strict=True):
        b.assign(a)
    first, second = (
        datasets(layer, tmp_path / f"{place}.weights.h5")
        for place, layer in enumerate((plain, tracked))
    )
    assert list(first) == list(second) and len(first) == 3
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])


def test_names_in_the_checkpoint(tmp_path):
    path = tf.train.Checkpoint(built()).write(str(tmp_path / "checkpoint"))
    keys = {name for name, _ in tf.train.list_variables(path)} - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
    head, tail = "_tracked_by_tensorflow", ".ATTRIBUTES/VARIABLE_VALUE"
    names = [
        "layers/0/_kernel",
        "pairs/a/0",
        "pairs/b/c",
        "generator",
        "metric/0",
        "metric/1",
    ]
    assert keys == {f"{head}/{name}/{tail}" for name in names}


def test_restored_before_it_is_tracked(tmp_path):
    first, again = built(), Kept()
    path = tf.train.Checkpoint(first).write(str(tmp_path / "checkpoint"))
    status = tf.train.Checkpoint(again).read(path)
    again.build((None, 5))
    status.assert_consumed()
    for a, b in zip(again.weights, first.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize("tracks", [True, False])
def test_restoring_something_else_is_noticed_only_if_tracked(tracks, tmp_path):
    path = tf.train.Checkpoint(step=tf.Variable(1)).write(str(tmp_path / "checkpoint"))
    status = tf.train.Checkpoint(built(tracks)).read(path)
    if tracks:
        with pytest.raises(AssertionError):
            status.assert_existing_objects_matched()
    else:
        status.assert_existing_objects_matched()
