"""Models created in `sparse_models`, on one device and on several."""

import contextlib
import importlib

import keras
import numpy as np
import pytest
from small_backbones import BACKBONES, gemma4, inputs, mixtral, randomize

from tfmoe.distribute import MixedStrategy, on_one_device
from tfmoe.inspection import mixtures_of
from tfmoe.keras_hub import densify, sparse_models, sparsify
from tfmoe.keras_hub.placement import has_shards
from tfmoe.keras_hub.registry import FAMILIES

SLOW = pytest.mark.slow
EVERY = sorted(BACKBONES)


def scope(replicas):
    """The scope of a `MixedStrategy`, or none for `None` replicas."""
    if replicas is None:
        return contextlib.nullcontext()
    return MixedStrategy([f"CPU:{i}" for i in range(replicas)]).scope()


def regression(make, replicas=None):
    """A compiled model, with weights that do not depend on the number of replicas.

    Args:
        make: function without arguments that returns the inputs of a model and a tensor `[..., D]`.
        replicas: R, or `None`.
    """
    keras.backend.clear_session(free_memory=False)  # equal names of layers
    keras.utils.set_random_seed(0)
    with scope(replicas), sparse_models():
        x, hidden = make()
        model = keras.Model(x, keras.layers.Dense(3)(hidden))
        model.compile(keras.optimizers.Adam(1e-3, global_clipnorm=0.5), "mse")
        model.optimizer.build(model.trainable_variables)  # else `fit` traces a step twice
    return randomize(model)


def block():
    """A Mixtral block without a decoder around it."""
    x = keras.Input([5, 8])
    layer = resolved(FAMILIES["Mixtral"].replaces)(8, 6, num_experts=4, router_aux_loss_coef=0.1)
    return x, layer(x)[0]


def check_training(make, x, replicas, epochs):
    """Asserts that losses, metrics and weights on several devices equal those on one, and that
    experts and their slots are sharded.
    """
    model, single = regression(make, replicas), regression(make)
    experts = bank_weights(model)
    slots = [model.optimizer._momentums, model.optimizer._velocities]
    places = [i for i, w in enumerate(model.trainable_weights) if any(w is e for e in experts)]
    slots = [variables[place] for variables in slots for place in places]
    assert all(len(variable.value.bounds) == replicas for variable in (*experts, *slots))
    initial = [weight.numpy() for weight in experts]
    (history, weights), (expected_history, expected_weights) = (
        trained(each, x, epochs) for each in (model, single)
    )
    assert set(history) == set(expected_history) and len(history) > 1
    for name, values in expected_history.items():
        np.testing.assert_allclose(history[name], values, 1e-5, 1e-6, err_msg=name)
    for weight, expected in zip(weights, expected_weights, strict=True):
        np.testing.assert_allclose(weight, expected, atol=2e-6)
    assert all(np.any(w.numpy() != before) for w, before in zip(experts, initial, strict=True))


def trained(model, x, epochs):
    """The history and the weights after one step per epoch."""
    y = np.random.default_rng(1).standard_normal([4, 5, 3]).astype("float32")
    history = model.fit(x, y, batch_size=4, epochs=epochs, shuffle=False, verbose=0).history
    return history, model.get_weights()


def bank_weights(model):
    """The variables of the experts of all mixtures in a model."""
    return [weight for layer in mixtures_of(model).values() for weight in layer.experts.weights]


def test_a_block_on_two_devices():
    x = np.random.default_rng(0).standard_normal([4, 5, 8]).astype("float32")
    check_training(block, x, replicas=2, epochs=2)


@SLOW
@pytest.mark.parametrize(
    ("family", "replicas", "options"),
    [
        *[(family, replicas, {}) for family in EVERY for replicas in (2, 4)],
        # The last device has one expert, or none.
        ("mixtral", 2, {"num_experts": 3}),
        ("gpt_oss", 4, {"num_experts": 3}),
    ],
)
def test_several_devices_equal_one(family, replicas, options):
    def make():
        backbone = BACKBONES[family](**options)
        return backbone.input, backbone.output

    x = inputs(keras.Model(*make()), batch=4, steps=5)
    check_training(make, x, replicas, epochs=3)


@pytest.mark.parametrize("family", ["mixtral", *[pytest.param(f, marks=SLOW) for f in EVERY]])
def test_files_do_not_depend_on_the_devices(family, tmp_path):
    keras.utils.set_random_seed(0)
    plain = randomize(BACKBONES[family](num_layers=1 if family == "mixtral" else 2))
    plain.save_to_preset(tmp_path / "plain")
    with scope(2), sparse_models():
        sharded = type(plain).from_preset(str(tmp_path / "plain"))
    for weight, expected in zip(sharded.weights, plain.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected.numpy())
    assert all(has_shards(layer.bank() or layer) for layer in mixtures_of(sharded).values())
    randomize(sharded, seed=2)
    sharded.save_to_preset(tmp_path / "sharded")
    again = type(plain).from_preset(str(tmp_path / "sharded"))
    assert not mixtures_of(again)
    sharded.save(tmp_path / "sharded.keras")
    with scope(4), sparse_models():
        on_four = keras.saving.load_model(tmp_path / "sharded.keras")
    assert all(has_shards(layer.bank() or layer) for layer in mixtures_of(on_four).values())
    for model in (again, keras.saving.load_model(tmp_path / "sharded.keras"), on_four):
        for weight, expected in zip(model.weights, sharded.weights, strict=True):
            np.testing.assert_array_equal(weight.numpy(), expected.numpy())


def test_experts_that_are_not_sharded():
    with scope(2):
        model = mixtral(num_layers=1)
        with pytest.raises(ValueError, match=r"every device holds all experts of .*moe_block.*: a"):
            sparsify(model)
    assert not mixtures_of(model)


def test_dense_experts_cannot_be_sharded():
    with scope(2), sparse_models():
        model = mixtral(num_layers=1)
    with pytest.raises(ValueError, match=r"mixtral_backbone.* cannot become dense: each device"):
        densify(model)
    copy = on_one_device(model)
    assert not mixtures_of(copy)
    x = inputs(copy)
    np.testing.assert_allclose(model(x), copy(x), atol=1e-5)


def test_classes_are_restored():
    names = {
        name
        for mixture in FAMILIES.values()
        for name in (mixture.builds_bank, mixture.builds_whole or mixture.replaces)
    }
    class_of = {name: resolved(name) for name in names}
    before = {name: cls.build for name, cls in class_of.items()}
    with pytest.raises(KeyError), sparse_models(), sparse_models():
        assert all(cls.build is not before[name] for name, cls in class_of.items())
        raise KeyError
    assert all(cls.build is before[name] for name, cls in class_of.items())
    assert not mixtures_of(mixtral(num_layers=1))


def test_nested():
    with sparse_models(metrics=False):
        with sparse_models():
            inner = mixtral(num_layers=1)
        outer = mixtral(num_layers=1)
    assert [len(model.metrics) > 0 for model in (inner, outer)] == [True, False]


def resolved(name):
    module, _, name = name.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_gemma4_is_complete_after_its_decoder():
    with sparse_models():
        decoder = gemma4(num_layers=1)
    assert len(mixtures_of(decoder)) == 1
    densify(decoder)
    assert mixtures_of(sparsify(decoder))
