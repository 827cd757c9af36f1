import collections
import json
import pathlib

import pytest

from tfmoe.data_pipelines import survey
from tfmoe.data_pipelines.corpora.embedded_text import EmbeddedText, EmbeddedWords

WORDS = EmbeddedWords(english=20_000, python=20_000, languages=20_000)
LANGUAGES = ["de", "fr"]
NONE = {"english": 0, "python": 0, "languages": 0}


def only(**words):
    return EmbeddedWords(**{**NONE, **words})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    directory = tmp_path_factory.mktemp("corpus")
    return directory, EmbeddedText(words=WORDS, languages=LANGUAGES, seed=1).splits(directory)


def read(file):
    return pathlib.Path(file).read_text(encoding="utf-8").splitlines()


def test_files(corpus):
    directory, splits = corpus
    assert splits.train == [str(directory / "train.txt")]
    names = {f"{part}.{end}" for part in ("train", "valid", "test") for end in ("txt", "domain")}
    assert {file.name for file in directory.iterdir()} == {*names, "corpus.json"}


def test_no_line_is_in_two_parts(corpus):
    _, splits = corpus
    lines = [read(getattr(splits, part)[0]) for part in ("train", "valid", "test")]
    together = [line for part in lines for line in part]
    assert len(together) == len(set(together))
    for part in lines[1:]:
        assert 0.01 < len(part) / len(together) < 0.03


def test_domains_and_counts(corpus):
    directory, splits = corpus
    counts = json.loads((directory / "corpus.json").read_text())["counts"]
    total = collections.Counter()
    for part in ("train", "valid", "test"):
        domains = read(directory / f"{part}.domain")
        found = survey(getattr(splits, part))
        assert len(domains) == found.sentences
        assert collections.Counter(domains) == {
            kind: count["sentences"] for kind, count in counts[part].items() if count["sentences"]
        }
        assert found.tokens == sum(count["words"] for count in counts[part].values())
        total.update({kind: count["words"] for kind, count in counts[part].items()})
    assert set(total) == {"english", "python", "de", "fr"}
    assert total["english"] == pytest.approx(20_000, rel=0.01)
    assert total["de"] == pytest.approx(10_000, rel=0.01)


def test_lines_are_of_their_domain(corpus):
    directory, splits = corpus
    for line, domain in zip(read(splits.train[0]), read(directory / "train.domain"), strict=True):
        if domain == "english":
            assert line.endswith((" .", " ?", " !"))
        if domain == "python":
            assert line.endswith(" ;")
    kinds = read(directory / "train.domain")[:40]
    assert len(set(kinds)) > 2  # in random order


def test_same_parameters_same_files_and_reuse(corpus, tmp_path):
    _, splits = corpus
    again = EmbeddedText(words=WORDS, languages=LANGUAGES, seed=1).splits(tmp_path)
    assert read(again.train[0]) == read(splits.train[0])

    valid = pathlib.Path(again.valid[0])
    valid.write_text("changed\n")
    EmbeddedText(words=WORDS, languages=LANGUAGES, seed=1).splits(tmp_path)
    assert valid.read_text() == "changed\n"
    EmbeddedText(words=only(python=1000), seed=1).splits(tmp_path)
    assert valid.read_text() != "changed\n"
    assert set(read(tmp_path / "train.domain")) == {"python"}


def test_an_unfinished_corpus_is_written_again(tmp_path):
    corpus = EmbeddedText(words=only(languages=2000), languages=["de"])
    corpus.splits(tmp_path)
    (tmp_path / "test.txt").unlink()
    corpus.splits(tmp_path)
    assert (tmp_path / "test.txt").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"words": only()}, "words must be some of at least one kind, got none"),
        (
            {"words": only(languages=9), "languages": []},
            r"languages must not be empty where words\.languages=9",
        ),
        ({"languages": "de"}, "languages must be a list of different locales, got 'de'"),
        ({"languages": ["de", "de"]}, "languages must be a list of different locales"),
        (
            {"languages": ["de", "english"]},
            r"languages\[1\] must be a locale that Babel knows, such as 'de', got 'english'",
        ),
        ({"seed": -1}, "seed must be at least 0 and below 2147483648, got -1"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        EmbeddedText(**settings)


def test_words_are_checked():
    with pytest.raises(ValueError, match=r"^english must be at least 0, got -1"):
        EmbeddedWords(english=-1)
