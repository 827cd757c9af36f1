"""The memory of optimizer slots."""

import keras
import pytest
import tensorflow as tf
from analysis.small_models import MODELS, language_model, lstm

from tfmoe.analysis.memory import COMPARED, memory_per_device
from tfmoe.analysis.variables import GraphBuild
from tfmoe.gating import NoisyTopK
from tfmoe.layers import MoE
from tfmoe.optimizers import FactoredAdagrad, FactoredAdam, WarmupInverseSqrt

OPTIMIZERS = [
    ("adam", keras.optimizers.Adam, {}),
    ("factored_adam", FactoredAdam, {}),
    (None, FactoredAdam, {"factored_beta_1": 0.5}),
    (None, FactoredAdam, {"factored": "matrices"}),
    (None, FactoredAdam, {"factored": "none"}),
    (None, FactoredAdam, {"factored": ["kernel", "embedding"]}),
    ("factored_adagrad", FactoredAdagrad, {}),
    (None, keras.optimizers.SGD, {}),
    (None, keras.optimizers.SGD, {"momentum": 0.9, "learning_rate": WarmupInverseSqrt(1.0)}),
    (None, keras.optimizers.Adafactor, {}),
    (None, keras.optimizers.AdamW, {"use_ema": True, "gradient_accumulation_steps": 2}),
    (None, keras.optimizers.Lion, {}),
]


def cases():
    """Every optimizer with every model. Fast tests use optimizers without a name with two models
    only, which contain all kinds of layers.
    """
    for index, make in enumerate(MODELS):
        for optimizer in OPTIMIZERS:
            quick = optimizer[0] is not None or index in (2, 3)
            yield pytest.param(make, *optimizer, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize(("make", "name", "kind", "options"), cases())
def test_slots_equal_those_of_the_built_optimizer(make, name, kind, options):
    model = make()
    counted = memory_per_device(model, tokens=1, optimizer=kind(**options))
    model.build((None, None))
    assert count_bytes(model.trainable_variables) == counted["weights"]
    optimizer = kind(**options)
    num_own_variables = len(optimizer.variables)  # iterations and learning rate
    optimizer.build(model.trainable_variables)
    assert count_bytes(optimizer.variables[num_own_variables:]) == counted["optimizer_slots"]
    if name is not None:
        assert counted["optimizer_slots_by_optimizer"][name] == counted["optimizer_slots"]
        assert memory_per_device(model, tokens=1, optimizer=name) == counted


def count_bytes(variables):
    return sum(v.shape.num_elements() * tf.as_dtype(v.dtype).size for v in variables)


def test_optimizers_by_name_and_configuration():
    model = language_model(lstm(4))
    weights = memory_per_device(model, 1)["weights"]
    assert memory_per_device(model, 1, optimizer="lion")["optimizer_slots"] == weights
    config = keras.optimizers.serialize(keras.optimizers.SGD(momentum=0.5))
    assert memory_per_device(model, 1, optimizer=config)["optimizer_slots"] == weights


@pytest.mark.parametrize("devices", [1, 4])
def test_slots_are_sharded_like_their_variables(devices):
    model = language_model(MoE(8, 5, groups=4, gate=NoisyTopK(k=2)))
    optimizer = keras.optimizers.SGD(momentum=0.9)
    memory = memory_per_device(model, 1, devices, optimizer)
    assert memory["optimizer_slots"] == memory["weights"]
    # A group: 2 experts of 2·4·5, a gate of 2·4·2. Replicated: 99, the primary gate's 2·4·4.
    assert memory["weights"] == 4 * (4 // devices * (80 + 16) + 99 + 32)
    factors = memory_per_device(model, 1, devices)["experts"]["optimizer_slots_by_optimizer"]
    assert factors["factored_adam"] == 4 * 8 // devices * (4 + 5 + 5 + 4)


def test_slots_of_bfloat16_variables_are_float32():
    layer = MoE(6, 5, gate=NoisyTopK(k=2), dtype="bfloat16")
    built = GraphBuild(layer, (None, 4))
    assert {variable.dtype for variable in built.variables()} == {"bfloat16"}
    slots = {slot.path.rpartition("_")[2]: slot.dtype for slot in built.slots(FactoredAdam())}
    assert (slots["rows"], slots["columns"]) == ("float32", "float32")


def test_compared_optimizers():
    assert set(COMPARED) == {"adam", "factored_adam", "factored_adagrad"}
    memory = memory_per_device(language_model(lstm(4)), 1)
    assert set(memory["optimizer_slots_by_optimizer"]) == set(COMPARED)
