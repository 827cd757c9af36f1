"""Methods and attributes of Keras that are replaced or read.

A failure here names the private API of TensorFlow or Keras that changed; other tests would only
show that training fails.
"""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from distribute.tensorflow_internals.signatures import parameters
from keras.src.saving import saving_lib

from tfmoe.distribute.tensorflow_internals import (
    accumulation,
    add_metric,
    deferred_variables,
    initializer_of,
    inner_layers,
    outermost_layer,
    remove_metric,
    training_of_call,
)
from tfmoe.distribute.tensorflow_internals.extended import SEED_STATE


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("_backend_apply_gradients", ["self", "grads", "trainable_variables"]),
        ("_all_reduce_sum_gradients", ["self", "grads_and_vars"]),
        ("_clip_gradients", ["self", "grads"]),
        ("apply", ["self", "grads", "trainable_variables"]),
        (
            "add_variable_from_reference",
            ["self", "reference_variable", "name", "initializer"],
        ),
    ],
)
def test_methods_of_optimizers_that_are_replaced(method, expected):
    current = getattr(keras.optimizers.Optimizer, method)
    assert parameters(getattr(current, "original", current)) == expected


def test_reading_of_files_that_is_replaced(tmp_path):
    current = saving_lib.H5IOStore.__getitem__
    assert parameters(getattr(current, "original", current)) == ["self", "key"]
    current = saving_lib.is_memory_sufficient
    assert parameters(getattr(current, "original", current)) == ["model"]
    assert "is_memory_sufficient(model)" in inspect.getsource(saving_lib._load_model_from_fileobj)
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(3, name="dense")])
    model.save_weights(tmp_path / "model.weights.h5")
    store = saving_lib.H5IOStore(tmp_path / "model.weights.h5", mode="r")
    assert store.get("layers/dense") is store and store.mode == "r"
    assert saving_lib.safe_get_h5_dataset(store._h5_entry_group, "0").shape == (2, 3)
    store.close()


def test_other_parts_of_optimizers():
    optimizer = keras.optimizers.Adam()
    assert parameters(optimizer._get_variable_index) == ["variable"]
    assert optimizer._distribution_strategy is tf.distribute.get_strategy()
    assert (optimizer.clipnorm, optimizer.global_clipnorm, optimizer.clipvalue) == (None,) * 3


@pytest.mark.parametrize("wrap", [lambda x: x, keras.optimizers.LossScaleOptimizer])
def test_accumulation_of_gradients(wrap):
    weight = keras.Variable([0.0])
    assert accumulation(wrap(keras.optimizers.SGD(1.0))) == (0, 1)
    optimizer = wrap(keras.optimizers.SGD(1.0, gradient_accumulation_steps=3))
    optimizer.build([weight])
    for batch in range(7):
        position, length = accumulation(optimizer)
        assert (int(position), length) == (batch % 3, 3)
        before = weight.numpy()
        optimizer.apply([tf.constant([1e9])], [weight])
        assert (weight.numpy() != before) == (batch % 3 == 2)


def test_gradients_are_clipped_by_the_method_that_is_replaced():
    class Recording(keras.optimizers.SGD):
        def _clip_gradients(self, grads):
            called.append(("clip", len(grads)))
            return super()._clip_gradients(grads)

        def _backend_apply_gradients(self, grads, trainable_variables):
            called.append(("apply", len(grads)))
            return super()._backend_apply_gradients(grads, trainable_variables)

        def _all_reduce_sum_gradients(self, grads_and_vars):
            grads_and_vars = list(grads_and_vars)
            called.append(("sum", len(grads_and_vars)))
            return super()._all_reduce_sum_gradients(grads_and_vars)

    called = []
    Recording(1.0).apply([tf.constant([1.0])], [keras.Variable([0.0])])
    assert called == [("apply", 1), ("clip", 1), ("sum", 1)]


def test_loss_tracker_of_models():
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(np.zeros([2, 2]), np.zeros([2, 1]), verbose=0)
    assert isinstance(model._loss_tracker, keras.metrics.Mean)
    assert model._loss_tracker.name == "loss"


def test_name_of_random_states():
    state = keras.random.SeedGenerator(7).state
    assert state.name == SEED_STATE == "seed_generator_state"
    assert state.shape == (2,)
    assert state.numpy().tolist() == [7, 0]  # seed and counter


def test_scope_of_a_model(strategy_of):
    strategy = strategy_of(2)
    with strategy.scope():
        model = keras.Sequential([keras.layers.Dense(1)])
    assert model._distribute_strategy is strategy
    assert keras.Sequential([keras.layers.Dense(1)])._distribute_strategy is None


def test_initialization_is_deferred_in_a_stateless_scope():
    with keras.StatelessScope():
        variable = keras.Variable(lambda shape, dtype: tf.ones(shape, dtype), shape=(2,))
        assert variable._value is None
    np.testing.assert_array_equal(variable.numpy(), [1, 1])
    assert parameters(keras.Variable._deferred_initialize.original) == ["self"]


def test_variables_in_the_context_of_deferred_variables_get_no_value():
    other, layer = keras.layers.Dense(3), keras.layers.Dense(2, kernel_initializer="he_normal")
    with keras.StatelessScope():
        other.build((None, 4))
        with deferred_variables() as scope:
            layer.build((None, 4))
            layer.add_loss(tf.constant(1.0))
    assert len(scope.losses) == 1
    assert other.kernel._value is not None  # initialized at the end of the outer scope
    assert layer.kernel._value is None
    assert initializer_of(layer.kernel) is layer.kernel_initializer


def test_inner_layers():
    class Outer(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.one = keras.layers.Dense(1, name="one")
            self.others = [keras.Sequential([keras.layers.Dense(1, name="inner")], name="other")]

    assert [layer.name for layer in inner_layers(Outer())] == ["one", "other"]
    assert inner_layers(keras.layers.Dense(1)) == []


def test_outermost_layer_of_a_call():
    class Recorder(keras.layers.Layer):
        def call(self, x):
            recorded.append(outermost_layer(self))
            return x

    recorded = []
    layer = Recorder()
    model = keras.Sequential([keras.Sequential([layer])])
    model(tf.zeros([1, 2]))
    assert recorded[-1] is model
    layer(tf.zeros([1, 2]))
    assert recorded[-1] is layer


def test_training_of_a_call():
    class Recorder(keras.layers.Layer):
        def call(self, x):
            recorded.append(training_of_call(self))
            return x

    recorded = []
    model = keras.Sequential([keras.Input([2]), keras.Sequential([Recorder()])])
    recorded.clear()
    for options in ({"training": True}, {"training": False}, {}):
        model(tf.zeros([1, 2]), **options)
    assert recorded == [True, False, False]


def test_metrics_of_a_built_layer():
    layer = keras.layers.Dense(1)
    model = keras.Sequential([keras.Input([2]), layer])
    metric = keras.metrics.Mean()
    with pytest.raises(ValueError, match="already built"):
        layer.metric = metric
    add_metric(layer, metric)
    assert any(each is metric for each in model.metrics)
    remove_metric(layer, metric)
    assert not any(each is metric for each in model.metrics)
