"""Misuses of Keras with a `MixedStrategy`, and their errors."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.distribute import collectives, keras_models
from tfmoe.gating import NoisyTopK
from tfmoe.layers import MoE

D = 6
X, Y = np.ones([4, D], "float32"), np.ones([4, 2], "float32")
OUTSIDE = r"model 'mine' was created outside of this MixedStrategy.scope\(\): create and compile "
OPTIMIZER = r"optimizer 'mine' was created outside of this MixedStrategy.scope\(\): create the opt"


def make_model():
    inputs = keras.Input([D])
    x = MoE(4, 5, gate=NoisyTopK(k=2, noise=False), name="moe")(inputs)
    return keras.Model(inputs, keras.layers.Dense(2)(x), name="mine")


def check_fit(model):
    assert len(model.fit(X, Y, verbose=0).history["loss"]) == 1


def test_a_model_created_outside_cannot_be_compiled_inside(strategy_of):
    model = make_model()
    with strategy_of(2).scope(), pytest.raises(ValueError, match=OUTSIDE):
        model.compile("sgd", "mse")
    assert not model.compiled
    model.compile("sgd", "mse")
    check_fit(model)  # on one device


@pytest.mark.parametrize(
    "step",
    [
        lambda model: model.fit(X, Y, verbose=0),
        lambda model: model.evaluate(X, Y, verbose=0),
        lambda model: model.predict(X, verbose=0),
        lambda model: model.train_on_batch(X, Y),
        lambda model: model.test_on_batch(X, Y),
        lambda model: model.predict_on_batch(X),
    ],
)
def test_a_model_created_outside_cannot_be_used_inside(strategy_of, step):
    model = make_model()
    model.compile("sgd", "mse")
    with strategy_of(2).scope(), pytest.raises(ValueError, match=OUTSIDE):
        step(model)
    step(model)


def test_a_model_of_another_strategy(strategy_of):
    with strategy_of(2).scope():
        model = make_model()
    with strategy_of(2).scope(), pytest.raises(ValueError, match=OUTSIDE):
        model.compile("sgd", "mse")


def test_an_optimizer_created_outside(strategy_of):
    optimizer = keras.optimizers.SGD(0.1, name="mine")
    with strategy_of(2).scope():
        model = make_model()
        with pytest.raises(ValueError, match=OPTIMIZER):
            model.compile(optimizer, "mse")
        with pytest.raises(ValueError, match="You must call `compile"):
            model.fit(X, Y, verbose=0)
        model.compile(keras.optimizers.SGD(0.1), "mse")
    check_fit(model)


def test_an_optimizer_created_outside_with_loss_scaling(strategy_of):
    optimizer = keras.optimizers.SGD(0.1, name="mine")
    with strategy_of(2).scope():
        model = make_model()
        with pytest.raises(ValueError, match=OPTIMIZER):
            model.compile(keras.optimizers.LossScaleOptimizer(optimizer), "mse")


@pytest.mark.parametrize("built", [True, False])
def test_an_optimizer_created_outside_in_a_custom_loop(strategy_of, built):
    strategy = strategy_of(2)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, name="mine")
    with strategy.scope():
        variable = keras.Variable([0.0], name="variable")
    if built:
        optimizer.build([variable])

    def step():
        optimizer.apply([tf.ones([1])], [variable])

    with pytest.raises(ValueError, match=OPTIMIZER):
        tf.function(lambda: strategy.run(step), autograph=False)()
    if not built:
        with strategy.scope(), pytest.raises(ValueError, match=OPTIMIZER):
            optimizer.build([variable])


def test_compile_outside_uses_the_scope_of_the_model(strategy_of):
    with strategy_of(2).scope():
        model = make_model()
    model.compile("adam", "mse")
    assert model.optimizer._distribution_strategy is model.distribute_strategy
    check_fit(model)


def test_eager_replicas_raise_an_error(strategy_of):
    with strategy_of(2).scope():
        model = make_model()
        with pytest.raises(ValueError, match=r"'mine' has run_eagerly=True, but .* graph mode"):
            model.compile("sgd", "mse", run_eagerly=True)
        model.compile("sgd", "mse")
    model.run_eagerly = True
    with pytest.raises(ValueError, match="compile Keras models with run_eagerly=False"):
        model.fit(X, Y, verbose=0)
    model.run_eagerly = False
    model.train_function = None
    check_fit(model)


def test_a_model_called_eagerly_in_replicas(strategy_of):
    strategy = strategy_of(2)
    with strategy.scope():
        model = make_model()
    with pytest.raises(ValueError, match=r"call strategy.run inside a tf.function"):
        strategy.run(lambda: model(X))
    assert tf.function(lambda: strategy.run(lambda: model(X)))().values[0].shape == (4, 2)


@pytest.mark.parametrize("replicas", [None, 1])
def test_one_replica_runs_eagerly(strategy_of, replicas):
    with strategy_of(replicas).scope() if replicas else contextlib.nullcontext():
        model = make_model()
        model.compile("sgd", "mse", run_eagerly=True)
    check_fit(model)


def test_a_plain_model_and_a_distributed_model_in_one_process(strategy_of):
    replica_counts = []
    plain = make_model()
    with strategy_of(2).scope():
        inner = keras.layers.Lambda(
            lambda x: replica_counts.append(collectives.num_replicas()) or x, name="record"
        )
        model = keras.Sequential([keras.Input([D]), inner, keras.layers.Dense(2)])
        model.compile("sgd", "mse")
    plain.compile("sgd", "mse", run_eagerly=True)
    check_fit(model)
    check_fit(plain)
    assert replica_counts[-1] == 2


def test_a_loaded_model_is_compiled(tmp_path):
    """Keras compiles a loaded model only if its class does not define `compile`."""
    keras_models.install()
    model = make_model()
    model.compile("sgd", "mse")
    model.save(tmp_path / "m.keras")
    assert keras.saving.load_model(tmp_path / "m.keras").compiled
