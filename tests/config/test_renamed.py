"""Old names of keys."""

import pytest

from tfmoe.config import ConfigError, load_config

CONFIG = """\
model:
  name: translation
  d_model: 8
  encoder: [{name: lstm, units: 8}]
  decoder: [{name: attention_lstm, units: 8}]
data:
  name: parallel
  train: train
  source_language: en
  target_language: de
  batch_words: 100
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    return tmp_path / "config.yaml"


def problem(path, *overrides):
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    (line,) = str(caught.value).replace(f"{path.parent}/", "").split("\n")
    return line


def test_old_names_in_a_file(path):
    assert load_config(path).data.batch_tokens == 100


@pytest.mark.parametrize(
    "override",
    [
        "data.batch_words=7",
        "data.batch_tokens=7",
        "data={name: parallel, train: x, source_language: a, target_language: b, batch_words: 7}",
    ],
)
def test_old_names_on_the_command_line(path, override):
    assert load_config(path, [override]).data.batch_tokens == 7


def test_old_names_in_a_base(path, tmp_path):
    (tmp_path / "upper.yaml").write_text("base: config.yaml\ndata: {batch_tokens: 7}\n")
    assert load_config(tmp_path / "upper.yaml").data.batch_tokens == 7
    (tmp_path / "upper.yaml").write_text("base: config.yaml\ndata: {batch_words: 8}\n")
    assert load_config(tmp_path / "upper.yaml").data.batch_tokens == 8


def test_errors_name_the_line_of_the_old_name(path):
    path.write_text(CONFIG.replace("100", "none"))
    assert problem(path) == (
        "config.yaml:11: data.batch_tokens: must be an integer of at least 1, got 'none'"
    )
    path.write_text(CONFIG)
    assert problem(path, "data.batch_words=0") == (
        "--set data.batch_words=0: data.batch_tokens: must be an integer of at least 1, got 0"
    )


def test_both_names_of_a_key(path):
    path.write_text(CONFIG + "  batch_tokens: 100\n")
    assert problem(path) == (
        "config.yaml:11: data.batch_words: is the old name of data.batch_tokens, which is given "
        "too; remove it"
    )
    assert problem(path, "data={batch_words: 1, batch_tokens: 1}").endswith("remove it")
