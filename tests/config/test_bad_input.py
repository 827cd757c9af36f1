"""Invalid input: one short message per mistake, whatever the size of the input."""

import os

import pytest
from config.minimal import MINIMAL, problems

from tfmoe.config import ConfigError, load_config


def test_pipe_and_name_that_is_too_long(write, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    message = "pipe: is a device or a pipe; give the path of a regular file"
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "pipe")
    assert problems(write("base: pipe")) == [f"config.yaml:1: base: {message}"]
    (line,) = problems(write(f"base: {'x' * 3000}"))
    assert line.startswith("config.yaml:1: base: xxx") and len(line) < 2000


def test_set_does_not_change_the_other_copy_of_an_aliased_block(write):
    path = write(
        "model: {d_model: 8, blocks: [&x {name: feed_forward, hidden_units: 2}, *x]}\n"
        "data: {name: grammars}\n"
    )
    config = load_config(path, ["model.blocks[0].hidden_units=3"])
    assert [block.hidden_units for block in config.model.blocks] == [3, 2]


@pytest.mark.parametrize("key", ["data.name", "model.name", "training.optimizer.name"])
@pytest.mark.parametrize("value", ["[a]", "{a: b}"])
def test_name_that_is_not_text(write, key, value):
    lines = problems(write(MINIMAL), f"{key}={value}")
    assert lines[0].startswith(f"--set {key}={value}: {key}: must be one of ")


def test_control_characters_are_escaped_and_long_text_is_shortened(write):
    (line,) = problems(write(MINIMAL), "model.\x1b[31m=3")
    assert line.startswith(r"--set model.\x1b[31m=3: 'model.\x1b[31m' is not a key")
    (line,) = problems(write(MINIMAL), "data.train=*\x1b[2J")
    assert line.endswith("data.train: not valid YAML: the character U+001B is not allowed")
    (line,) = problems(write(MINIMAL), "x" * 100_000 + "=" + "y" * 100_000)
    assert line.startswith("--set xxx") and len(line) < 700


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (f"model.d_model={2**62}", f"model.d_model: must be at most 1048576, got {2**62}"),
        (f"data.max_length={2**70}", f"data.max_length: must be at most 16384, got {2**70}"),
        (
            f"data.batch_tokens={2**62}",
            f"data.batch_tokens: must be at most 2147483647, got {2**62}",
        ),
        (
            f"data.shuffle_buffer={2**70}",
            f"data.shuffle_buffer: must be at most 10000000, got {2**70}",
        ),
        (
            "model.blocks[1].depth=1_000_000_000",
            "model.blocks[1].depth: must be at most 1000, got 1000000000",
        ),
        (
            "model.blocks[1].num_experts=10_000_000",
            "model.blocks[1].num_experts: must be at most 4194304, got 10000000",
        ),
        (
            "training.optimizer.learning_rate=1e39",
            "training.optimizer.learning_rate: must be at most 1e+38, got 1e+39",
        ),
        (
            "model.blocks[1].gate.importance_weight=-1",
            "model.blocks[1].gate.importance_weight: must be a number of at least 0, got -1",
        ),
    ],
)
def test_numbers_out_of_range(write, override, message):
    assert problems(write(MINIMAL), override) == [f"--set {override}: {message}"]


def test_all_problems_of_a_section_are_reported(write):
    block = "{name: moe, num_experts: 0, groups: x, depth: 0, gate: {k: 0, load_weight: -1}}"
    lines = problems(write(MINIMAL), f"model.blocks[1]={block}")
    assert sorted(line.split(": model.blocks[1].")[1].split(":")[0] for line in lines) == [
        "depth", "gate.k", "gate.load_weight", "groups", "hidden_units", "num_experts",
    ]  # fmt: skip


def test_too_many_blocks(write):
    (line,) = problems(write(MINIMAL), f"model.blocks=[{'{name: lstm, units: 8},' * 201}]")
    assert line.endswith("model.blocks: must have at most 200 items, got 201")
