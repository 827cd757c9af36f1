"""Models created in `sparse_models`, on one device and on several."""

import contextlib

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from keras_hub.src.models.qwen3_moe import qwen3_moe_decoder
from small_backbones import BACKBONES, inputs, mixtral, qwen3_moe, randomize

from tfmoe.distribute import MixedStrategy, on_one_device
from tfmoe.keras_hub import densify, sparse_models, sparsify
from tfmoe.keras_hub.placement import BUILDERS, has_shards
from tfmoe.layers import mixtures_of

SLOW = pytest.mark.slow
EVERY = sorted(BACKBONES)


def scope(replicas):
    """The scope of a `MixedStrategy`, or none for `None` replicas."""
    if replicas is None:
        return contextlib.nullcontext()
    return MixedStrategy([f"CPU:{i}" for i in range(replicas)]).scope()


def regression(family, replicas=None, **options):
    """A compiled model with a small backbone and weights that do not depend on the replicas."""
    keras.backend.clear_session(free_memory=False)  # equal names of layers
    keras.utils.set_random_seed(0)
    with scope(replicas), sparse_models():
        backbone = BACKBONES[family](**options)
        model = keras.Model(backbone.input, keras.layers.Dense(3)(backbone.output))
        model.compile(keras.optimizers.Adam(1e-3, global_clipnorm=0.5), "mse")
        model.optimizer.build(model.trainable_variables)  # else `fit` traces a step twice
    return randomize(model)


def trained(model, epochs=1):
    """The history and the weights after a step per epoch."""
    x = inputs(model, batch=4, steps=5)
    y = np.random.default_rng(1).standard_normal([4, 5, 3]).astype("float32")
    history = model.fit(x, y, batch_size=4, epochs=epochs, shuffle=False, verbose=0).history
    return history, model.get_weights()


def check_equal(actual, expected):
    (history, weights), (expected_history, expected_weights) = actual, expected
    assert set(history) == set(expected_history) and len(history) > 1
    for name, values in expected_history.items():
        np.testing.assert_allclose(history[name], values, 1e-5, 1e-6, err_msg=name)
    for a, b in zip(weights, expected_weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def bank_weights(model):
    """The variables of the experts of all mixtures in a model."""
    return [weight for layer in mixtures_of(model).values() for weight in layer.experts.weights]


@pytest.mark.parametrize(
    ("family", "replicas", "options"),
    [
        ("qwen3_moe", 2, {"num_layers": 1}),
        *[pytest.param(family, 2, {}, marks=SLOW) for family in EVERY],
        *[pytest.param(family, 4, {}, marks=SLOW) for family in EVERY],
        # The last device has one expert, or none.
        pytest.param("mixtral", 2, {"num_experts": 3}, marks=SLOW),
        pytest.param("gpt_oss", 4, {"num_experts": 3}, marks=SLOW),
    ],
)
def test_several_devices_equal_one(family, replicas, options, tmp_path):
    model, single = regression(family, replicas, **options), regression(family, **options)
    assert all(has_shards(layer.bank() or layer) for layer in mixtures_of(model).values())
    shapes = {tuple(weight.shape) for weight in bank_weights(model)}
    slots = [v.value for v in model.optimizer.variables if tuple(v.shape) in shapes]
    assert len(slots) == 2 * len(bank_weights(model))
    assert all(len(slot.bounds) == replicas for slot in slots)
    initial = single.get_weights()
    epochs = 1 if options.get("num_layers") == 1 else 3
    result = trained(model, epochs)
    check_equal(result, trained(single, epochs))
    for before, after in zip(initial, result[1], strict=True):
        assert np.any(before != after) or not before.any() or len(before.shape) == 0


@pytest.mark.parametrize("family", ["qwen3_moe", *[pytest.param(f, marks=SLOW) for f in EVERY]])
def test_files_do_not_depend_on_the_devices(family, tmp_path):
    keras.utils.set_random_seed(0)
    plain = randomize(BACKBONES[family](num_layers=1 if family == "qwen3_moe" else 2))
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
    for weight, expected in zip(again.weights, sharded.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected.numpy())
