import keras
import pytest

from tfmoe import gating
from tfmoe.gating import Hierarchical, NoisyTopK, Softmax, Switch


def test_identifiers():
    assert isinstance(gating.get("switch"), Switch)
    gate = gating.get({"name": "noisy_top_k", "k": 3, "load_weight": 0.1})
    assert (type(gate), gate.k, gate.load_weight) == (NoisyTopK, 3, 0.1)
    assert gating.get(gate) is gate
    restored = gating.get(keras.saving.serialize_keras_object(gate))
    assert (type(restored), restored.k, restored.load_weight) == (NoisyTopK, 3, 0.1)


def test_the_dictionary_is_not_changed():
    identifier = {"name": "noisy_top_k", "k": 3}
    gating.get(identifier)
    assert identifier == {"name": "noisy_top_k", "k": 3}


def test_dictionary_of_a_hierarchical_gate():
    gate = gating.get(
        {"name": "hierarchical", "groups": 2, "primary": {"name": "noisy_top_k", "k": 1},
         "secondary": "softmax"}
    )  # fmt: skip
    assert isinstance(gate, Hierarchical)
    assert (gate.primary.k, type(gate.secondary)) == (1, Softmax)


def test_every_registered_gate_is_a_gate():
    for name, gate in gating.GATES.items():
        assert issubclass(gate, gating.Gate), name


@pytest.mark.parametrize(
    ("identifier", "message"),
    [
        ("noisy_topk", r"gate must be .*got 'noisy_topk'; did you mean 'noisy_top_k'"),
        ("nothing like it", r"gate must be a Gate or one of 'softmax', .*got 'nothing like it'$"),
        ({"k": 2}, r"gate must be a Gate or one of .*got {'k': 2}"),
        (5, r"gate must be .*got 5"),
        (None, r"gate must be .*got None"),
        (["softmax"], r"gate must be .*got \['softmax'\]"),
        (NoisyTopK, r"gate must be .*got <class"),
        ({"name": "noisy_top_k", "kk": 2}, r"kk"),
        ({"name": "noisy_top_k", "k": 0}, r"k must be an integer of at least 1, got 0"),
        ("hierarchical", r"gate 'hierarchical': missing a required argument: 'groups'"),
        (
            keras.saving.serialize_keras_object(keras.layers.Dense(3)),
            r"gate must describe a Gate, got",
        ),
    ],
)  # fmt: skip
def test_wrong_identifiers(identifier, message):
    with pytest.raises(ValueError, match=message):
        gating.get(identifier)
