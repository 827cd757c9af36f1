"""A name of data may stand for text of language models and of translation."""

import pytest
from config.minimal import MINIMAL

from tfmoe.config import ConfigError, dump_config, load_config
from tfmoe.config.data_schema import DATA_SECTIONS, corpus_of
from tfmoe.data_pipelines.corpora import CORPORA

TRANSLATION = """\
model:
  name: translation
  d_model: 4
  encoder: [{name: lstm, units: 4}]
  decoder: [{name: attention_lstm, units: 4}]
data: {name: json_lines, train: a.jsonl, source_language: de, target_language: en}
"""
SHARED = CORPORA["language"].keys() & CORPORA["parallel"].keys()
NEEDED = {"huggingface": "path: a", "tfds": "dataset: a"}


def test_both_kinds(write):
    assert sorted(SHARED) == ["huggingface", "json_lines", "parquet", "tfds"]
    for name in SHARED:
        needed = f"name: {name}, {NEEDED.get(name, 'train: a')}"
        config = load_config(write(MINIMAL), [f"data={{{needed}}}"])
        assert type(corpus_of(config.data)) is CORPORA["language"][name]
        assert config.data.vocabulary.size is None
        languages = "source_language: de, target_language: en"
        config = load_config(write(TRANSLATION), [f"data={{{needed}, {languages}}}"])
        assert type(corpus_of(config.data)) is CORPORA["parallel"][name]
        assert config.data.vocabulary.size == 32_000
        assert type(config.data) is DATA_SECTIONS["parallel"][name]


def test_dump_loads_back_equal(write):
    config = load_config(write(TRANSLATION))
    assert load_config(write(dump_config(config))) == config


def test_keys_are_set_one_by_one(write):
    settings = ["name=json_lines", "train=b", "column=x.y", "tokenization=text"]
    config = load_config(write(MINIMAL), [f"data.{setting}" for setting in settings])
    assert corpus_of(config.data) == CORPORA["language"]["json_lines"](
        train=["b"], column="x.y", tokenization="text"
    )
    config = load_config(write(TRANSLATION), ["data.name=parquet", "data.source_column=a"])
    assert (config.data.train, config.data.source_column) == (["a.jsonl"], "a")


@pytest.mark.parametrize(
    ("text", "override", "message"),
    [
        (
            TRANSLATION,
            "data={name: json_lines, train: a}",
            "data: name: json_lines for model.name=translation needs source_language,"
            " target_language",
        ),
        (
            TRANSLATION,
            "data={name: tfds, dataset: a, column: b}",
            "data: name: tfds for model.name=translation needs source_language, target_language and"
            " has no column",
        ),
        (
            TRANSLATION,
            "data={name: text, train: a}",
            "data.name: must be one of parallel, json_lines, parquet, huggingface, tfds, wmt14,"
            " embedded_translation for model.name=translation, got text",
        ),
        (
            MINIMAL,
            "data={name: json_lines, train: a, source_language: de, target_language: en}",
            "data: name: json_lines for model.name=language_model has no source_language,"
            " target_language",
        ),
        (
            MINIMAL,
            "data={name: json_lines, train: a, tokenization: texts}",
            "data.tokenization: must be words or text, got 'texts'; did you mean text?",
        ),
        (
            MINIMAL,
            "data={name: tfds, dataset: 'a:b'}",
            "data.dataset: must be NAME or NAME/CONFIG, :VERSION may follow, such as"
            " wmt14_translate/de-en:1.0.0; got 'a:b'",
        ),
        (
            MINIMAL,
            "data={name: parquet, train: a, colum: b}",
            "data.colum: unknown key (its value is 'b'); did you mean column? Valid keys:"
            " name, tokenization, column, train, valid, test, vocabulary, batch_tokens,"
            " max_length, shuffle_buffer",
        ),
        (
            MINIMAL,
            "data={name: json, train: a}",
            "data.name: must be one of text, json_lines, parquet, huggingface, tfds, lm1b,"
            " embedded_text, grammars, parallel, wmt14, embedded_translation, got 'json'",
        ),
    ],
)
def test_errors(write, text, override, message):
    with pytest.raises(ConfigError) as caught:
        load_config(write(text), [override])
    (line,) = str(caught.value).split("\n")
    assert line == f"--set {override}: {message}"
