import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.gating import (
    Batchwise,
    Gate,
    GShard,
    Hierarchical,
    NoisyTopK,
    Softmax,
    Switch,
    TopK,
)
from tfmoe.gating.copies import SEED_DISTANCE, constructor_arguments, copy_of
from tfmoe.layers import MoE

X = tf.random.stateless_normal([7, 3], [1, 2])


class IncompleteConfig(Gate):
    """A gate whose configuration lacks one argument, or two."""

    def __init__(self, temperature=1.0, k=2, *, has_k=True, **kwargs):
        super().__init__(**kwargs)
        self.temperature, self.k, self.has_k = temperature, k, has_k

    num_selected = 2

    def route(self, inputs, training=False, groups=None):
        """Never called."""

    def get_config(self):
        config = {"k": self.k} if self.has_k else {}
        return {**super().get_config(), "has_k": self.has_k, **config}


@pytest.mark.parametrize(
    ("has_k", "missing"), [(True, "temperature is missing"), (False, "temperature, k are missing")]
)
def test_missing_argument_in_the_configuration(has_k, missing):
    gate = IncompleteConfig(temperature=3.0, has_k=has_k)
    message = rf"IncompleteConfig.get_config must return every argument .*{missing}"
    with pytest.raises(ValueError, match=message):
        copy_of(gate, num_experts=4)
    with pytest.raises(ValueError, match=message):
        MoE(4, 8, gate=gate)


def test_missing_argument_passed_to_the_copy():
    assert copy_of(IncompleteConfig(temperature=3.0), temperature=5.0).temperature == 5.0


@pytest.mark.parametrize(
    "gate",
    [
        NoisyTopK(k=3, importance_weight=0.1, load_weight=0.2, noise_floor=0.5, seed=7),
        NoisyTopK(k=2, noise=False),
        Softmax(importance_weight=0.1),
        Switch(balance_weight=0.1, importance_weight=0.2, load_weight=0.3),
        Batchwise(k=3, importance_weight=0.1),
        TopK(3, "sigmoid", False, 2.5, True, 0.1),
        GShard(0.3, 0.1, capacity_factor=1.0),
        Hierarchical(2, NoisyTopK(k=1), Softmax(), importance_weight=0.1, load_weight=0.2),
    ],
    ids=lambda gate: type(gate).__name__,
)
def test_a_copy_has_the_settings_of_the_gate(gate):
    copy = gate.for_experts(8, name="other")
    assert type(copy) is type(gate) and copy is not gate
    assert (copy.num_experts, gate.num_experts, copy.name) == (8, None, "other")
    assert not copy.built
    settings, expected = copy.get_config(), gate.get_config()
    for name in constructor_arguments(type(gate)):
        if name not in ("primary", "secondary"):  # these are copied too
            assert settings[name] == expected[name], name


def test_wrong_argument_of_a_copy_raises_a_value_error():
    with pytest.raises(ValueError, match=r"k must be at most 2, .*got k=3"):
        copy_of(NoisyTopK(k=3), num_experts=2)


def noise(gate):
    gate.build((None, 3))
    return gate.draw(X).numpy()


def test_the_first_copy_keeps_the_seed_and_others_draw_other_noise():
    gate = NoisyTopK(k=2, seed=7)
    copies = [gate.for_experts(4) for _ in range(3)]
    assert [copy.seed for copy in copies] == [7, 7 + SEED_DISTANCE, 7 + 2 * SEED_DISTANCE]
    first, second, third = (noise(copy) for copy in copies)
    np.testing.assert_array_equal(first, noise(NoisyTopK(k=2, seed=7, num_experts=4)))
    for a, b in ((first, second), (first, third), (second, third)):
        assert np.abs(a - b).max() > 0.1
    # The gate is unchanged, and copies of an equal gate draw the same noise.
    assert gate.seed == 7
    equal_gate = NoisyTopK(k=2, seed=7)
    np.testing.assert_array_equal(noise(equal_gate.for_experts(4)), first)
    np.testing.assert_array_equal(noise(equal_gate.for_experts(4)), second)


def test_copies_without_a_seed_have_none():
    gate = NoisyTopK(k=2)
    copies = [gate.for_experts(4) for _ in range(2)]
    assert [copy.seed for copy in copies] == [None, None]
    assert np.abs(noise(copies[0]) - noise(copies[1])).max() > 0.1


def test_layers_with_one_gate_draw_different_noise():
    gate = NoisyTopK(k=2, seed=7)
    first, second = (MoE(4, 8, gate=gate) for _ in range(2))
    assert np.abs(noise(first.gate) - noise(second.gate)).max() > 0.1
    # Layers from the same configuration draw the same noise.
    restored = MoE.from_config(second.get_config())
    assert restored.gate.seed == second.gate.seed != first.gate.seed
    other = MoE.from_config(second.get_config())
    np.testing.assert_array_equal(noise(restored.gate), noise(other.gate))


def test_both_levels_of_a_hierarchical_gate_draw_different_noise():
    gate = Hierarchical(4, NoisyTopK(k=2, seed=7)).for_experts(16)
    assert gate.primary.seed != gate.secondary.seed
    assert np.abs(noise(gate.primary) - gate.secondary.draw(X).numpy()).max() > 0.1
    layer = MoE(16, 8, groups=4, gate=NoisyTopK(k=2, seed=7))
    restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    for level in ("primary", "secondary"):
        assert getattr(restored.gate, level).seed == getattr(layer.gate, level).seed, level
