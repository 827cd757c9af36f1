import keras
import pytest

from tfmoe.gating import Hierarchical, NoisyTopK, Switch
from tfmoe.layers import MoE
from tfmoe.serving.exported import remove_evaluation_capacity

LIMIT = {"evaluation_capacity_factor": 1.5}


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"gate": NoisyTopK(k=2)}, []),
        ({"gate": NoisyTopK(k=2), **LIMIT}, ["moe"]),
        ({"gate": Switch(**LIMIT)}, ["moe"]),
        ({"gate": Switch(**LIMIT), "groups": 2, **LIMIT}, ["moe"]),
        ({"gate": Hierarchical(2, NoisyTopK(k=2), Switch(**LIMIT))}, ["moe"]),
    ],
)
def test_removed_evaluation_capacity(arguments, names):
    model = keras.Sequential([keras.Input([3]), MoE(4, 2, name="moe", **arguments)])
    assert remove_evaluation_capacity(model) == names
    assert remove_evaluation_capacity(model) == []
    gate = model.get_layer("moe").gate
    levels = (gate,) if gate.secondary is None else (gate.primary, gate.secondary)
    assert [level.token_capacity(training=False) for level in levels] == [None] * len(levels)
