import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.ops.tracking import track


def checkpointed_variables(layer):
    """Paths of the variables that a TensorFlow checkpoint of a layer contains."""
    children = tf.train.TrackableView(layer).descendants()
    return {child.path for child in children if isinstance(child, keras.Variable)}


class LayerWithContainers(keras.layers.Layer):
    """Keeps all its variables in containers, which TensorFlow does not search."""

    def __init__(self, tracked=True, **kwargs):
        super().__init__(name="containers", **kwargs)
        self.tracked = tracked
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
        if self.tracked:
            track(self, layers=self.layers, nothing=None)
            track(self, pairs=self.pairs, generator=self.generator, metric=self.metric)


def built_layer(tracked=True):
    layer = LayerWithContainers(tracked)
    layer.build((None, 5))
    return layer


def test_containers_are_checkpointed_if_tracked():
    assert checkpointed_variables(built_layer(tracked=False)) == set()
    assert {path.rsplit("/", 1)[-1] for path in checkpointed_variables(built_layer())} == {
        "kernel", "first", "second", "seed_generator_state", "total", "count",
    }  # fmt: skip


def datasets(layer, path):
    """Names and values in the weights file of a model with the layer."""
    values = {}
    keras.Sequential([keras.Input((5,)), layer]).save_weights(path)
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: values.update({name: item[()]}) if hasattr(item, "shape") else None
        )
    return values


def test_tracking_changes_nothing_for_keras(tmp_path):
    plain, tracked = built_layer(tracked=False), built_layer()
    assert [v.path for v in tracked.weights] == [v.path for v in plain.weights]
    assert [v.name for v in tracked.variables] == [v.name for v in plain.variables]
    for a, b in zip(tracked.weights, plain.weights, strict=True):
        b.assign(a)
    first, second = (
        datasets(layer, tmp_path / f"{i}.weights.h5") for i, layer in enumerate((plain, tracked))
    )
    assert list(first) == list(second) and len(first) == 3
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])


def test_names_in_the_checkpoint(tmp_path):
    path = tf.train.Checkpoint(built_layer()).write(str(tmp_path / "checkpoint"))
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


def test_restore_before_tracking(tmp_path):
    saved, restored = built_layer(), LayerWithContainers()
    path = tf.train.Checkpoint(saved).write(str(tmp_path / "checkpoint"))
    status = tf.train.Checkpoint(restored).read(path)
    restored.build((None, 5))
    status.assert_consumed()
    for a, b in zip(restored.weights, saved.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize("tracked", [True, False])
def test_a_mismatch_is_detected_only_if_tracked(tracked, tmp_path):
    path = tf.train.Checkpoint(step=tf.Variable(1)).write(str(tmp_path / "checkpoint"))
    status = tf.train.Checkpoint(built_layer(tracked)).read(path)
    if tracked:
        with pytest.raises(AssertionError):
            status.assert_existing_objects_matched()
    else:
        status.assert_existing_objects_matched()
