import dataclasses

import pytest

from tfmoe.data_pipelines import ParallelFiles
from tfmoe.data_pipelines.corpora import CORPORA, LanguageCorpus, ParallelCorpus

# Settings with which each corpus writes little, or that are the only ones without a default.
ENGLISH_FRENCH = {"source_language": "en", "target_language": "fr"}
SETTINGS = {
    "language": {
        "text": {"train": ["a.en"]},
        "json_lines": {"train": ["a.jsonl"]},
        "parquet": {"train": ["a.parquet"]},
        "huggingface": {"path": "a"},
        "tfds": {"dataset": "a"},
        "lm1b": {"root": "."},
        "embedded_text": {"languages": ["de"]},
        "grammars": {
            "grammars": 2,
            "train_sentences": 5,
            "valid_sentences": 1,
            "test_sentences": 1,
        },
    },
    "parallel": {
        "parallel": {"train": ["a"], **ENGLISH_FRENCH},
        "json_lines": {"train": ["a.jsonl"], **ENGLISH_FRENCH},
        "parquet": {"train": ["a.parquet"], **ENGLISH_FRENCH},
        "huggingface": {"path": "a", **ENGLISH_FRENCH},
        "tfds": {"dataset": "a", **ENGLISH_FRENCH},
        "wmt14": {"root": ".", "target_language": "fr"},
        "embedded_translation": {"sentences": 5, "valid_sentences": 1, "test_sentences": 1},
    },
}
WRITTEN_AT_ONCE = [
    ("language", "text"), ("language", "json_lines"), ("language", "grammars"),
    ("parallel", "parallel"), ("parallel", "json_lines"), ("parallel", "embedded_translation"),
]  # fmt: skip
ALL = [(kind, name) for kind, corpora in CORPORA.items() for name in corpora]


@pytest.fixture(params=ALL, ids=" ".join)
def corpus(request):
    kind, name = request.param
    return CORPORA[kind][name](**SETTINGS[kind][name])


def test_kinds():
    assert [(CORPORA[kind][name].kind, name) for kind, name in ALL] == ALL


def test_fields_and_kinds(corpus):
    assert corpus == dataclasses.replace(corpus)
    with pytest.raises(dataclasses.FrozenInstanceError):
        corpus.seed = 1
    if corpus.kind == "language":
        assert isinstance(corpus, LanguageCorpus)
        assert corpus.tokenization in ("text", "words")
    else:
        assert isinstance(corpus, ParallelCorpus)
        assert (corpus.kind, corpus.tokenization) == ("parallel", "subwords")
        assert corpus.empty_sides in ("error", "skip")
        assert corpus.language_pairs == [("en", "fr")]
        assert corpus.target_languages == []


@pytest.mark.parametrize(("kind", "name"), WRITTEN_AT_ONCE)
def test_splits(kind, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"text": "x", "en": "x", "fr": "x"}\n')
    for side in ("en", "fr"):
        (tmp_path / f"a.{side}").write_text("x\n")
    corpus = CORPORA[kind][name](**SETTINGS[kind][name])
    splits = corpus.splits(tmp_path / "corpus")
    assert splits.train
    for each in splits.train:
        assert isinstance(each, ParallelFiles if corpus.kind == "parallel" else str)
