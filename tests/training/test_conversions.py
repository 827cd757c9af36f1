"""The weights of upcycled and pruned layers."""

import numpy as np
import pytest

from tfmoe.layers import FeedForward, MoE
from tfmoe.training.conversions import copies, kernel_mask, pruned, redrawn_units, upcycled
from tfmoe.training.transfer import value_of


def test_scaled_and_redrawn_experts():
    network = FeedForward(4, activation="relu")
    layer = MoE(3, 4, gate={"name": "top_k", "k": 2, "scale": 2.5})
    for each in (network, layer):
        each.build((None, 5))
    change = upcycled(network, layer, scale=2.5, redrawn=0.5, seeds=(3,))
    first, last = (pair.convert(value_of(pair.old)) for pair in change.pairs)
    same = np.isclose(first, value_of(network.dense[0].kernel)).all(axis=1)  # [E, H]
    np.testing.assert_array_equal(same.sum(axis=1), [2, 2, 2])
    scaled = np.isclose(last, value_of(network.dense[1].kernel) / 2.5).all(axis=2)
    np.testing.assert_array_equal(same, scaled)  # both kernels of the same units
    again = [pair.convert(value_of(pair.old)) for pair in change.pairs]
    np.testing.assert_array_equal(again[0], first)


def test_redrawn_values_have_the_mean_and_deviation_of_the_kernel():
    value = np.random.default_rng(0).normal(5, 2, [50, 40]).astype("float32")
    (units,) = redrawn_units(8, 1, 40, 0.25, (0,))
    drawn = copies(value, 8, 1.0, kernel_mask(None, units), (1,))
    changed = drawn[np.broadcast_to(units[:, None], drawn.shape)]
    assert changed.size == 8 * 10 * 50
    assert changed.mean() == pytest.approx(5, abs=0.15) and changed.std() == pytest.approx(2, 0.05)
    assert drawn.dtype == value.dtype


def built_mixture(num_experts, **gate):
    layer = MoE(num_experts, 5, gate={"k": 2, **gate}, use_bias=True)
    layer.build((None, 5))
    return layer


@pytest.mark.parametrize(
    "gate, by_expert",
    [
        ({"name": "bias_balanced", "gate_hidden_units": 4}, {"gate_kernel", "bias", "step_load"}),
        ({"name": "top_k", "use_bias": True}, {"gate_kernel", "gate_bias"}),
        ({"name": "batchwise"}, {"gate_kernel", "log_thresholds"}),
    ],
)
def test_pruned_gates_and_experts(gate, by_expert):
    old, new = built_mixture(4, **gate), built_mixture(2, **gate)
    generator = np.random.default_rng(0)
    for weight in old.weights:
        weight.assign(generator.random(weight.shape))
    change = pruned(old, new, np.array([1, 3]))
    seen = set()
    for pair in change.pairs:
        value, converted = value_of(pair.old), pair.convert(value_of(pair.old))
        seen.add(pair.old.name)
        if pair.old.name in by_expert:
            np.testing.assert_array_equal(converted, value[..., [1, 3]])
        elif pair.old.name.startswith(("kernel_", "bias_")):
            np.testing.assert_array_equal(converted, value[[1, 3]])
            shapes = {"rows": (2, *value.shape[2:])}
            rows = pair.convert_slots({"rows": value[:, 0]}, shapes)["rows"]
            np.testing.assert_array_equal(rows, value[[1, 3], 0])
        else:
            np.testing.assert_array_equal(converted, value)
    assert by_expert | {"kernel_0", "bias_0", "kernel_1", "bias_1"} <= seen


def test_all_experts_kept_are_the_same():
    old, new = (built_mixture(4, name="bias_balanced") for _ in range(2))
    old.gate.bias.assign([0.1, 0, 0.3, 0.2])
    for pair in pruned(old, new, np.arange(4)).pairs:
        pair.new.assign(pair.convert(value_of(pair.old)))
    x = np.random.default_rng(0).normal(size=(9, 5)).astype("float32")
    np.testing.assert_array_equal(new(x), old(x))


def test_factored_slots_are_means_of_the_full_one():
    network, layer = FeedForward(4), MoE(3, 4, gate="top_k")
    for each in (network, layer):
        each.build((None, 5))
    convert = upcycled(network, layer).pairs[0].convert_slots
    velocity = np.arange(20, dtype="float32").reshape(5, 4)
    shapes = {"rows": (3, 5), "columns": (3, 4)}
    slots = convert({"momentum": velocity, "velocity": velocity}, shapes)
    assert slots.keys() == shapes.keys()
    for expert in range(3):
        np.testing.assert_allclose(slots["rows"][expert], velocity.mean(1) / 9, rtol=1e-6)
        np.testing.assert_allclose(slots["columns"][expert], velocity.mean(0) / 9, rtol=1e-6)
    assert convert({"unknown": velocity}, {"unknown": (3, 5, 4)}) == {}


def test_slots_of_scaled_weights():
    """With `W / 2.5` in each of 3 experts the gradient is 2.5 / 3 times as large."""
    network, layer = FeedForward(4), MoE(3, 4, gate={"name": "top_k", "k": 2, "scale": 2.5})
    for each in (network, layer):
        each.build((None, 5))
    first, last = upcycled(network, layer, scale=2.5).pairs
    for pair, factor, divisor in ((first, 1 / 3, 1), (last, 2.5 / 3, 2.5)):
        value = value_of(pair.old)
        old = {"momentum": value, "velocity": value**2, "average": value}
        slots = pair.convert_slots(old, dict.fromkeys(old, tuple(pair.new.shape)))
        for expert in range(3):
            for name, expected in (
                ("momentum", factor * value),
                ("velocity", (factor * value) ** 2),
                ("average", value / divisor),
            ):
                np.testing.assert_allclose(slots[name][expert], expected, rtol=1e-5)
