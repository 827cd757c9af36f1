"""A model that is too large is rejected before it is allocated."""

import pathlib

import pytest
import tensorflow as tf

from tfmoe.analysis.variables import GraphBuild
from tfmoe.config import ConfigError, build_model, load_config
from tfmoe.distribute import MixedStrategy
from tfmoe.tasks import memory_check

CONFIG = """\
model:
  d_model: 8
  blocks:
    - {name: lstm, units: 8}
    - {name: moe, num_experts: 4, hidden_units: 16, gate: {k: 2}}
data: {name: text, train: x.txt, vocabulary: {size: 100}, batch_tokens: 64}
"""
HUGE = ["model.blocks[1].num_experts=1_000_000", "model.blocks[1].hidden_units=1_000_000"]


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.delenv(memory_check.IGNORE, raising=False)

    def load(*overrides):
        path = tmp_path / "config.yaml"
        path.write_text(CONFIG)
        return load_config(path, overrides)

    return load


def one_device():
    return tf.distribute.get_strategy()


def test_blocks_that_are_too_large(load, monkeypatch):
    with pytest.raises(ConfigError) as caught:
        memory_check.check_blocks(load(*HUGE), one_device())
    # 10^6 experts of 2·8·10^6 weights, with 8 weights of gate and noise, and the LSTM: twice 64 TB.
    assert str(caught.value).startswith(
        "model.blocks[1]: training needs 128.00 TB of memory (weights 64.00 TB, gradients 64.00 "
        "TB), but this machine has "
    )
    assert "TFMOE_IGNORE_MEMORY=1" in str(caught.value)
    monkeypatch.setenv(memory_check.IGNORE, "1")
    assert isinstance(memory_check.check_blocks(load(*HUGE), one_device()), GraphBuild)


def test_a_new_model_that_is_too_large(load):
    # The weights of the blocks are 64 TB; Adam has two slots for each weight.
    message = r"model.blocks\[1\]: the new model needs 192.00 TB .*optimizer slots 128.00 TB"
    with pytest.raises(ConfigError, match=message):
        memory_check.check_new_model(load(*HUGE, "training.optimizer.name=adam"), 100)
    memory_check.check_new_model(load(), 100)


def test_a_model_that_fits(load):
    config = load()
    built = memory_check.check_blocks(config, one_device())
    assert built.layer.vocabulary_size == 100
    memory_check.check_training(config, built, one_device(), positions=1000)


@pytest.mark.parametrize(
    ("vocabulary", "override", "positions", "message"),
    [
        (2**31 - 1, "model.d_model=8", 1, r"data.vocabulary.size: training needs .* GB of mem"),
        (100, "data.batch_tokens=2_000_000_000", 10**12, r"data.batch_tokens: .*activations .* TB"),
    ],
)
def test_error_names_the_key_of_the_largest_part(load, vocabulary, override, positions, message):
    config = load(override)
    built = GraphBuild(build_model(config, vocabulary))
    with pytest.raises(ConfigError, match=message):
        memory_check.check_training(config, built, one_device(), positions)


def test_devices_of_one_machine_share_its_memory(load):
    strategy = MixedStrategy(["CPU:0", "CPU:1"])
    assert memory_check.devices_here(strategy) == 2
    # Each device has half of the experts, and the LSTM.
    with pytest.raises(ConfigError, match=r"training needs 128.00 TB of memory for 2 devices"):
        memory_check.check_blocks(load(*HUGE), strategy)


def test_weights_of_a_run(load, tmp_path):
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    memory_check.check_weights(load(), 100, checkpoints)
    with (checkpoints / "best.data-00000-of-00001").open("wb") as file:
        file.truncate(2**43)  # a sparse file of 8 TB
    with pytest.raises(ConfigError, match=r"model.blocks\[1\]: this model needs 64.00 TB"):
        memory_check.check_weights(load(*HUGE), 100, pathlib.Path(checkpoints))
