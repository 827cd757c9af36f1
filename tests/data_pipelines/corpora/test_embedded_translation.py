import json
import pathlib
import re

import pytest

from tfmoe.data_pipelines import cldr_meanings
from tfmoe.data_pipelines.cldr_meanings import Meanings
from tfmoe.data_pipelines.corpora import embedded_translation
from tfmoe.data_pipelines.corpora.embedded_translation import LANGUAGES, EmbeddedTranslation
from tfmoe.data_pipelines.corpora.written import PARTS

SIZES = {"sentences": 600, "valid_sentences": 60, "test_sentences": 60}
PAIRS = ["en-fr", "fr-en", "en-de", "ja-en"]
UNORDERED = [("de", "en"), ("en", "fr"), ("en", "ja")]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    directory = tmp_path_factory.mktemp("corpus")
    return directory, EmbeddedTranslation(pairs=PAIRS, seed=1, **SIZES).splits(directory)


def lines_of(directory, part, pair, language):
    path = pathlib.Path(directory) / f"{part}.{'-'.join(pair)}.{language}"
    return path.read_text(encoding="utf-8").splitlines()


def test_splits(corpus):
    directory, splits = corpus
    assert [files.direction for files in splits.train] == PAIRS
    assert [files.direction for files in splits.test] == PAIRS
    assert splits.train[2].file_pairs == [
        (f"{directory}/train.de-en.en", f"{directory}/train.de-en.de")
    ]


def test_files(corpus):
    directory, _ = corpus
    names = {
        f"{part}.{'-'.join(pair)}.{language}"
        for part in PARTS
        for pair in UNORDERED
        for language in pair
    }
    assert {file.name for file in directory.iterdir()} == {*names, "corpus.json"}
    counts = json.loads((directory / "corpus.json").read_text())["counts"]
    for pair in UNORDERED:
        for part, size in zip(PARTS, SIZES.values(), strict=True):
            count = counts["-".join(pair)][part]
            assert count["sentences"] == size
            for language in pair:
                lines = lines_of(directory, part, pair, language)
                assert len(lines) == len(set(lines)) == size
                assert count["words"][language] == sum(len(line.split()) for line in lines)
                assert max(len(line.split()) for line in lines) <= 40


def test_no_sentence_is_in_two_parts(corpus):
    directory, _ = corpus
    found = {(part, language): set() for part in PARTS for language in LANGUAGES}
    for pair in UNORDERED:
        for part in PARTS:
            for language in pair:
                found[part, language].update(lines_of(directory, part, pair, language))
    for language in LANGUAGES:
        train, valid, test = (found[part, language] for part in PARTS)
        assert not train & valid and not train & test and not valid & test
    # Different draws for each pair.
    english = [set(lines_of(directory, "train", pair, "en")) for pair in UNORDERED[:2]]
    assert len(english[0] & english[1]) < 60


def test_lines_are_translations(corpus):
    # Years are the same figures in all languages.
    directory, _ = corpus
    year = re.compile(r"(?<!\d)(?:199|200|201|202)\d(?!\d)")
    for pair in UNORDERED:
        lines = [lines_of(directory, "train", pair, language) for language in pair]
        years = [[sorted(year.findall(line)) for line in side] for side in lines]
        assert years[0] == years[1]
        assert sum(map(bool, years[0])) > 200


def test_same_settings_same_files_and_reuse(corpus, tmp_path):
    directory, _ = corpus
    again = EmbeddedTranslation(pairs=PAIRS[::-1], seed=1, **SIZES)
    again.splits(tmp_path)
    for file in directory.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()

    changed = tmp_path / "train.en-fr.fr"
    changed.write_text("changed\n")
    again.splits(tmp_path)
    assert changed.read_text() == "changed\n"
    (tmp_path / "test.en-ja.ja").unlink()
    again.splits(tmp_path)
    assert changed.read_bytes() == (directory / changed.name).read_bytes()
    EmbeddedTranslation(pairs=PAIRS[:1], seed=2, **SIZES).splits(tmp_path)
    assert changed.read_bytes() != (directory / changed.name).read_bytes()


def test_languages():
    corpus = EmbeddedTranslation(pairs=PAIRS)
    assert corpus.language_pairs == [("en", "fr"), ("fr", "en"), ("en", "de"), ("ja", "en")]
    assert corpus.target_languages == ["de", "en", "fr"]
    assert EmbeddedTranslation().target_languages == []


OF_TWO = r"must be two different languages of en, fr, de, es, pt, ja, ko, such as en-fr, each pair"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pairs": []}, r"pairs must be a list of at least one item, got \[\]"),
        ({"pairs": ["en-it"]}, rf"pairs\[0\] {OF_TWO} once; got 'en-it'"),
        ({"pairs": ["en-fr", "en-en"]}, rf"pairs\[1\] {OF_TWO} once; got 'en-en'"),
        ({"pairs": ["en-fr", "en-fr"]}, rf"pairs\[1\] {OF_TWO} once; got 'en-fr'"),
        ({"pairs": [("en", "fr")]}, rf"pairs\[0\] {OF_TWO} once; got \('en', 'fr'\)"),
        ({"sentences": 0}, "sentences must be at least 1, got 0"),
        ({"valid_sentences": 0}, "valid_sentences must be at least 1, got 0"),
        ({"test_sentences": -1}, "test_sentences must be at least 1, got -1"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        EmbeddedTranslation(**settings)


def test_an_exhausted_space(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded_translation, "MOST_DRAWS", 5000)
    monkeypatch.setattr(cldr_meanings, "KINDS", (Meanings.fact,))
    monkeypatch.setattr(Meanings, "_country", lambda self: self.random.choice(("FR", "DE")))
    corpus = EmbeddedTranslation(sentences=600, valid_sentences=1, test_sentences=1)
    with pytest.raises(ValueError, match="600 sentences requested, but there are only about"):
        corpus.splits(tmp_path)
    assert not (tmp_path / "corpus.json").exists()
