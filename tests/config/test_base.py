"""Configs that extend another one with `base`."""

import pytest
from config.minimal import MINIMAL, problems

from tfmoe.config import load_config
from tfmoe.config.shipped import ROOT


def test_merges_mappings_and_replaces_lists(write):
    write(MINIMAL, "base.yaml")
    path = write("""\
        base: base.yaml
        model: {dropout: 0.5, blocks: [{name: lstm, units: 8}]}
        """)
    config = load_config(path)
    assert config.model.d_model == 8
    assert config.model.dropout == 0.5
    assert len(config.model.blocks) == 1


def test_another_name_drops_the_arguments_of_the_base(write):
    write(MINIMAL + "training: {seed: 3}\n", "base.yaml")
    path = write("base: base.yaml\ndata: {name: grammars, batch_tokens: 16}\n")
    config = load_config(path)
    assert config.data.name == "grammars"
    assert config.data.batch_tokens == 16
    assert config.training.seed == 3


def test_only_one_level(write):
    write(MINIMAL, "a.yaml")
    write("base: a.yaml\n", "b.yaml")
    (line,) = problems(write("\nbase: b.yaml\n"))
    assert line == "config.yaml:2: base: b.yaml has a base itself; only one level is allowed"


def test_shipped_config(write):
    path = write("base: demo/translation\nmodel: {dropout: 0.5}\n")
    expected = load_config("demo/translation", ["model.dropout=0.5"])
    assert load_config(path) == expected
    assert load_config(write("base: configs/demo/translation.yaml")).data == expected.data


def test_shipped_config_with_a_base(write):
    config = load_config(write("base: lm1b/moe-256\ntraining: {seed: 5}\n"))
    assert config == load_config("lm1b/moe-256", ["training.seed=5"])


def test_a_shipped_config_as_base_of_a_base(write):
    write("base: lm1b/moe-256\n", "a.yaml")
    (line,) = problems(write("base: a.yaml\n"))
    assert line == "config.yaml:1: base: a.yaml has a base itself; only one level is allowed"


def test_a_relative_file_comes_before_a_shipped_config(write, tmp_path):
    (tmp_path / "demo").mkdir()
    write(MINIMAL, "demo/translation")
    assert load_config(write("base: demo/translation")).model.d_model == 8


def test_a_shipped_config_reports_errors_at_its_own_line(write):
    (line,) = problems(write("base: demo/translation\nmodel: {decoder: 3}\n"))
    assert line.startswith("config.yaml:2: model.decoder: must be a list")
    (line,) = problems(write("base: demo/translation\nmodel: {d_model: 7}\n"))[:1]
    assert line.startswith(f"{ROOT}/demo/translation.yaml:")


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (
            "none.yaml",
            "none.yaml: no such file, and no shipped config of this name; `tfmoe configs` "
            "lists them",
        ),
        ("demo/translatoin", "did you mean demo/translation? `tfmoe configs` lists them"),
        ("demo", "demo: no such file, and no shipped config of this name; `tfmoe configs`"),
        (".", ".: is a directory; give the path of a config file in it"),
        ("lm1b/_base", "lm1b/_base: no such file"),
        (
            "3",
            "must be the path of a config, relative to this file, or the name of a shipped "
            "config, got 3",
        ),
    ],
)
def test_unknown(write, base, message):
    (line,) = problems(write(f"training: {{seed: 1}}\nbase: {base}"))
    assert line.startswith("config.yaml:2: base: ") and message in line


def test_an_error_in_the_base_names_its_file(write):
    write(MINIMAL.replace("k: 2", "k: two"), "base.yaml")
    (line,) = problems(write("base: base.yaml\ntraining: {seed: 1}\n"))
    assert line.startswith("base.yaml:8: model.blocks[1].gate.k: must be an integer of at least")
