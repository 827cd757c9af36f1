"""The list of all keys: complete, and each with a meaning."""

import pytest

from tfmoe.config import load_config, shipped_configs
from tfmoe.config.docstrings import arguments_in, summary_of, without_types
from tfmoe.config.keys import config_keys, default_text, keys_as_json, keys_text, title_of
from tfmoe.config.tree import leaves

SECTIONS = config_keys()


def test_every_key_has_a_meaning():
    without = [
        f"{title_of(section)}: {key.key}"
        for section in SECTIONS
        for key in section.keys
        if not key.meaning
    ]
    assert without == []


def test_every_section_has_a_summary():
    assert [title_of(section) for section in SECTIONS if not section.summary] == []


def test_the_keys_of_shipped_configs_are_listed():
    listed = {each["key"] for each in keys_as_json(SECTIONS)}
    for config in shipped_configs():
        tree = load_config(config["path"]).model_dump(mode="json")
        for path in leaves(tree):
            if path[-1] != "name":
                assert ".".join(path) in listed | {"paper"}
        for block in tree["model"].get("blocks", []):
            keys = {f"model.blocks[].{key}" for key in block if key != "name"}
            assert keys <= listed


def test_a_section_in_several_places_is_listed_once():
    (moe,) = [section for section in SECTIONS if section.name == "moe"]
    assert moe.paths == ("model.blocks[]", "model.encoder[]", "model.decoder[]")
    (directions,) = [each for each in SECTIONS if "data.directions[]" in each.paths]
    assert directions.name is None


def keys_of(of):
    return {(section.name, key.key) for section in config_keys(of) for key in section.keys}


@pytest.mark.parametrize(
    ("of", "some"),
    [
        ("data.vocabulary.size", {(None, "size")}),
        ("training.optimizer.schedule.steps", {("cosine_decay", "steps")}),
        ("model.blocks.1.groups", {("moe", "groups")}),
        ("noise_floor", {("noisy_top_k", "noise_floor")}),
        ("switch", {("switch", name) for name in ("balance_weight", "importance_weight")}),
        ("distribute", {("local", "devices"), ("cluster", "resolver")}),
    ],
)
def test_selection(of, some):
    found = keys_of(of)
    assert some <= found
    if len(some) == 1:
        assert found == some or of.endswith(".size")


def test_paths_of_a_selection():
    (section,) = config_keys("model.encoder.gate.noise_floor")
    assert section.paths == ("model.encoder[].gate",)


@pytest.mark.parametrize("of", ["", "model.", "blokcs", "model.blocks.kk", "[]"])
def test_an_unknown_key_is_refused(of):
    with pytest.raises(ValueError, match="is no key, section or name of a config"):
        config_keys(of)


def test_types_and_defaults():
    keys = {key.key: key for section in config_keys("moe") for key in section.keys}
    assert keys["num_experts"].required and default_text(keys["num_experts"]) == "required"
    assert keys["capacity_factor"].type == "a number above 0, or null"
    assert keys["capacity_priority"].choices == ("position", "choice", "weight")
    assert default_text(keys["capacity_factor"]) == "null"
    assert default_text(keys["gate"]) == "{name: noisy_top_k}"
    assert default_text(keys["use_bias"]) == "false" and default_text(keys["depth"]) == "1"
    assert "batchwise" in keys["gate"].choices


def test_text_fits_a_terminal():
    lines = keys_text(SECTIONS).split("\n")
    assert max(map(len, lines)) <= 100
    assert "  importance_weight: 0.0  # a number of at least 0" in lines


DOCSTRING = """A layer
    of two lines.

    Args:
        k: experts
            per token: many.
        low, high: limits.

    More keys:
        residual: whether: yes.

    Returns:
        nothing: at all.
    """


def test_reading_a_docstring():
    assert summary_of(DOCSTRING) == "A layer of two lines."
    assert arguments_in(DOCSTRING) == {
        "k": "experts per token: many.",
        "low": "limits.",
        "high": "limits.",
        "residual": "whether: yes.",
    }
    assert arguments_in(None) == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Boolean. Whether to use X. Defaults to `False`.", "Whether to use X."),
        ("float, defaults to -0.8. The decay rate.", "The decay rate."),
        ("Float, momentum of SGD.", "Float, momentum of SGD."),
        ("A small constant. Defaults to `1e-7`.", "A small constant."),
        ("A float, a `keras.X` instance. The rate.", "The rate."),
    ],
)
def test_sentences_about_types(text, expected):
    assert without_types(text) == expected
