"""Vocabularies of translation."""

import inspect

import pytest
from tasks.translation.small_corpora import ONE, SEVERAL, load

from tfmoe import data_pipelines
from tfmoe.config import ConfigError
from tfmoe.tasks import task_of
from tfmoe.tasks.vocabularies import build_subwords, subword_arguments


def test_vocabulary_from_a_file(folder):
    task = task_of(load(ONE))
    task.new_vocabulary().save(folder / "v.model")
    subwords = task.load_vocabulary(folder / "v.model")
    size = len(subwords)
    same = [f"data.vocabulary={{file: v.model, size: {n}}}" for n in ("null", size)]
    for setting in same:
        config = load(ONE, setting)
        assert build_subwords(config, []).fingerprint == subwords.fingerprint
    config = load(ONE, f"data.vocabulary={{file: v.model, size: {size + 1}}}")
    with pytest.raises(ConfigError) as caught:
        task_of(config).new_vocabulary()
    assert str(caught.value) == (
        f"data.vocabulary.size: is {size + 1}, but v.model has {size} ids; set it to null"
    )
    with pytest.raises(ConfigError) as caught:
        task_of(load(SEVERAL, same[0])).new_vocabulary()
    assert str(caught.value).startswith(
        "data.vocabulary.file: v.model has symbols for the languages [], but this config "
        "translates into ['de', 'en', 'fr']"
    )
    (folder / "v.model").write_bytes(b"x")
    with pytest.raises(data_pipelines.TextError, match=r"v.model: not a subword model"):
        task_of(load(ONE, same[0])).new_vocabulary()


def test_size_too_small_for_the_characters():
    with pytest.raises(ConfigError) as caught:
        task_of(load(ONE, "data.vocabulary.size=8")).new_vocabulary()
    assert str(caught.value).startswith("data.vocabulary.size: must be at least ")


def test_character_coverage():
    """SentencePiece allows 0.98 to 1."""
    config = load(ONE, "data.vocabulary.character_coverage=0.98")
    assert len(task_of(config).new_vocabulary()) <= 60
    with pytest.raises(ConfigError, match=r"data\.vocabulary\.character_coverage"):
        task_of(load(ONE, "data.vocabulary.character_coverage=0.5")).new_vocabulary()


def test_neither_size_nor_file():
    """`size: null` means the size of `file`, so it needs a file."""
    with pytest.raises(ConfigError, match=r"data\.vocabulary\.size"):
        task_of(load(ONE, "data.vocabulary.size=null")).new_vocabulary()


def test_what_decides_about_a_model():
    """Every argument of the training is in the key of a kept model."""
    arguments = inspect.signature(data_pipelines.Subwords.train).parameters
    assert {"sentences", *subword_arguments(load(ONE))} == set(arguments)
