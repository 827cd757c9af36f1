import collections
import json
import pathlib

import pytest

from data_pipelines import survey, write_embedded_text

WORDS = {"english": 20_000, "python": 20_000, "languages": 20_000}
LANGUAGES = ("de", "fr")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    directory = tmp_path_factory.mktemp("corpus")
    return directory, write_embedded_text(directory, words=WORDS, languages=LANGUAGES, seed=1)


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
    again = write_embedded_text(tmp_path, words=WORDS, languages=LANGUAGES, seed=1)
    assert read(again.train[0]) == read(splits.train[0])

    valid = pathlib.Path(again.valid[0])
    valid.write_text("changed\n")
    write_embedded_text(tmp_path, words=WORDS, languages=LANGUAGES, seed=1)
    assert valid.read_text() == "changed\n"
    write_embedded_text(tmp_path, words={"python": 1000}, seed=1)
    assert valid.read_text() != "changed\n"
    assert set(read(tmp_path / "train.domain")) == {"python"}


def test_an_unfinished_corpus_is_written_again(tmp_path):
    words = {"languages": 2000}
    write_embedded_text(tmp_path, words=words, languages=["de"])
    (tmp_path / "test.txt").unlink()
    write_embedded_text(tmp_path, words=words, languages=["de"])
    assert (tmp_path / "test.txt").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"words": {"prose": 10}}, "words: unknown kind 'prose'; the kinds are english, python, l"),
        ({"words": {"english": -1}}, r"words\['english'\] must not be negative; it is -1"),
        ({"words": {"english": 0}}, "words: nothing is wanted"),
        ({"words": {"languages": 9}, "languages": ()}, "languages must not be empty"),
        ({"languages": "de"}, "languages must be a list of different locales; it is 'de'"),
        ({"languages": ["de", "de"]}, "languages must be a list of different locales"),
        ({"languages": ["english"]}, "languages: 'english' is not a locale that Babel knows"),
    ],
)
def test_arguments_are_checked(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_embedded_text(tmp_path, **arguments)
    assert not list(tmp_path.iterdir())
