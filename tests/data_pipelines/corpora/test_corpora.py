import dataclasses

import pytest

from tfmoe.data_pipelines import ParallelFiles
from tfmoe.data_pipelines.corpora import CORPORA, LanguageCorpus, ParallelCorpus

# Settings with which each corpus writes little, or that are the only ones without a default.
SETTINGS = {
    "text": {"train": ["a.en"]},
    "lm1b": {"root": "."},
    "embedded_text": {"languages": ["de"]},
    "grammars": {"grammars": 2, "train_sentences": 5, "valid_sentences": 1, "test_sentences": 1},
    "parallel": {"train": ["a"], "source_language": "en", "target_language": "fr"},
    "wmt14": {"root": ".", "target_language": "fr"},
    "embedded_translation": {"sentences": 5, "valid_sentences": 1, "test_sentences": 1},
}
WRITTEN_AT_ONCE = ("text", "grammars", "parallel", "embedded_translation")


@pytest.fixture(params=CORPORA)
def corpus(request):
    return CORPORA[request.param](**SETTINGS[request.param])


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


@pytest.mark.parametrize("name", WRITTEN_AT_ONCE)
def test_splits(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for side in ("en", "fr"):
        (tmp_path / f"a.{side}").write_text("x\n")
    corpus = CORPORA[name](**SETTINGS[name])
    splits = corpus.splits(tmp_path / "corpus")
    assert splits.train
    for each in splits.train:
        assert isinstance(each, ParallelFiles if corpus.kind == "parallel" else str)
