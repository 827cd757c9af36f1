"""Arguments, weights and configs of `Batchwise`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe import gating
from tfmoe.config import ConfigError, load_config
from tfmoe.gating import Batchwise, Hierarchical


def test_initial_weights_and_sizes():
    gate = Batchwise(k=2, num_experts=8)
    gate.build((None, 3))
    assert [weight.name for weight in gate.trainable_weights] == ["gate_kernel", "log_thresholds"]
    np.testing.assert_allclose(gate.thresholds.numpy(), 1 / 8, rtol=1e-6)
    assert np.abs(gate.kernels["gate_kernel"].numpy()).min() > 0
    assert gate.count_params() == 3 * 8 + 8
    assert gate.ops_per_timestep(3) == 24
    assert gate.num_selected == 2
    # 2 groups of 4: 3·2 + 2, and 2·(3·4 + 4).
    gate = Hierarchical(2, Batchwise(k=2), num_experts=8)
    gate.build((None, 3))
    assert gate.count_params() == 8 + 32
    assert (gate.num_selected, gate.ops_per_timestep(3)) == (4, 6 + 2 * 12)
    np.testing.assert_allclose(gate.secondary.thresholds.numpy(), np.full((2, 4), 1 / 4), rtol=1e-6)


def test_first_call_inside_a_function():
    gate = Batchwise(k=2, num_experts=4)
    gates = tf.function(lambda x: gate(x).assignments.weights)(tf.zeros([3, 5]))
    assert gates.dtype == tf.float32
    np.testing.assert_allclose(gate.thresholds.numpy(), 1 / 4, rtol=1e-6)


def test_config_round_trip():
    gate = Batchwise(k=3, importance_weight=0.2, num_experts=6)
    for restored in (
        Batchwise.from_config(gate.get_config()),
        gating.get(keras.saving.serialize_keras_object(gate)),
        gate.for_experts(6),
    ):
        assert restored.get_config() | {"name": ""} == gate.get_config() | {"name": ""}
        assert (restored.k, restored.importance_weight) == (3, 0.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, r"k must be an integer of at least 1, got 0"),
        ({"k": 2.0}, r"k must be an integer of at least 1, got 2.0"),
        ({"k": 5, "num_experts": 4}, r"k must be at most 4, the number of experts.*got k=5"),
        ({"importance_weight": -0.1}, r"importance_weight must be .* at least 0, got -0.1"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Batchwise(**arguments)


def test_load_weight_is_accepted_in_old_configurations_only():
    for make in (
        lambda: Batchwise(load_weight=0.1),
        lambda: gating.get({"name": "batchwise", "load_weight": 0.1}),
    ):
        with pytest.raises(ValueError, match="load_weight"):
            make()
    old = {**Batchwise(k=3).get_config(), "load_weight": 0.1}
    assert Batchwise.from_config(old).k == 3


def test_use_without_num_experts():
    with pytest.raises(ValueError, match=r"Batchwise has no num_experts: .*for_experts"):
        Batchwise(k=2)(tf.zeros([2, 3]))


CONFIG = """\
model:
  d_model: 8
  blocks:
    - {name: lstm, units: 8}
    - name: moe
      num_experts: 4
      hidden_units: 16
      gate: {name: batchwise, k: 2}
data: {name: text, train: "train-*.txt"}
"""


def test_in_a_config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    section = load_config(path).model.blocks[1].gate
    gate = gating.get(section.model_dump())
    assert (type(gate), gate.k) == (Batchwise, 2)
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["model.blocks[1].gate.k=5"])
    message = "model.blocks[1].gate.k: must be at most 4, the number of experts"
    assert f"gate.k=5: {message}" in str(caught.value)
    assert load_config(path, ["model.blocks[1].groups=2"]).model.blocks[1].groups == 2
    limited = load_config(path, ["model.blocks[1].capacity_factor=2"]).model.blocks[1]
    assert limited.capacity_factor == 2
