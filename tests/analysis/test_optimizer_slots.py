"""Memory of the optimizers' slots."""

import keras
import pytest
import tensorflow as tf
from analysis.small_models import MODELS, lstm, model_of

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
    """Every optimizer with every model; `make test` takes those without a name with two models that
    have everything.
    """
    for index, make in enumerate(MODELS):
        for optimizer in OPTIMIZERS:
            quick = optimizer[0] is not None or index in (2, 3)
            yield pytest.param(make, *optimizer, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize(("make", "name", "kind", "options"), cases())
def test_slots_are_those_of_the_real_optimizers(make, name, kind, options):
    model = make()
    counted = memory_per_device(model, tokens=1, optimizer=kind(**options))
    model.build((None, None))
    assert bytes_of(model.trainable_variables) == counted["weights"]
    optimizer = kind(**options)
    of_optimizer = len(optimizer.variables)  # iterations and learning rate
    optimizer.build(model.trainable_variables)
    assert bytes_of(optimizer.variables[of_optimizer:]) == counted["optimizer_slots"]
    if name is not None:
        assert counted["optimizer_slots_by_optimizer"][name] == counted["optimizer_slots"]
        assert memory_per_device(model, tokens=1, optimizer=name) == counted


def bytes_of(variables):
    return sum(each.shape.num_elements() * tf.as_dtype(each.dtype).size for each in variables)


def test_optimizers_by_name_and_configuration():
    model = model_of(lstm(4))
    weights = memory_per_device(model, 1)["weights"]
    assert memory_per_device(model, 1, optimizer="lion")["optimizer_slots"] == weights
    config = keras.optimizers.serialize(keras.optimizers.SGD(momentum=0.5))
    assert memory_per_device(model, 1, optimizer=config)["optimizer_slots"] == weights


@pytest.mark.parametrize("devices", [1, 4])
def test_slots_are_sharded_as_their_variables(devices):
    model = model_of(MoE(8, 5, groups=4, gate=NoisyTopK(k=2)))
    optimizer = keras.optimizers.SGD(momentum=0.9)
    memory = memory_per_device(model, 1, devices, optimizer)
    assert memory["optimizer_slots"] == memory["weights"]
    # 2 experts of 2·4·5 in each group; its gate 2·4·2. Not sharded: 99, the primary gate's 2·4·4.
    assert memory["weights"] == 4 * (4 // devices * (80 + 16) + 99 + 32)
    factors = memory_per_device(model, 1, devices)["experts"]["optimizer_slots_by_optimizer"]
    assert factors["factored_adam"] == 4 * 8 // devices * (4 + 5 + 5 + 4)


def test_half_precision_has_slots_in_single():
    layer = MoE(6, 5, gate=NoisyTopK(k=2), dtype="bfloat16")
    built = GraphBuild(layer, (None, 4))
    assert {each.dtype for each in built.variables()} == {"bfloat16"}
    slots = {each.path.rpartition("_")[2]: each.dtype for each in built.slots(FactoredAdam())}
    assert (slots["rows"], slots["columns"]) == ("float32", "float32")


def test_compared_are_the_optimizers_of_configs():
    assert set(COMPARED) == {"adam", "factored_adam", "factored_adagrad"}
    memory = memory_per_device(model_of(lstm(4)), 1)
    assert set(memory["optimizer_slots_by_optimizer"]) == set(COMPARED)
