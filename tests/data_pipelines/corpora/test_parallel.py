import pytest

from tfmoe.data_pipelines import TextError
from tfmoe.data_pipelines.corpora.parallel import Direction, Parallel

ENGLISH_GERMAN = {"source_language": "en", "target_language": "de"}
GERMAN_ENGLISH = {"source_language": "de", "target_language": "en"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.en", "a.de", "b.en", "b.de"):
        (tmp_path / name).write_text("x\n")


def test_one_direction():
    corpus = Parallel(**ENGLISH_GERMAN, train=["a", "b"], test=["b"])
    assert (corpus.language_pairs, corpus.target_languages) == ([("en", "de")], [])
    splits = corpus.splits(None)
    (train,), valid, (test,) = splits.train, splits.valid, splits.test
    assert train.file_pairs == [("a.en", "a.de"), ("b.en", "b.de")]
    assert valid == []
    assert test.file_pairs == [("b.en", "b.de")]
    assert train.weight == 1
    with pytest.raises(TextError, match=r"c\.en: no such file"):
        Parallel(**ENGLISH_GERMAN, train=["c"]).splits(None)


def test_several_directions():
    corpus = Parallel(
        directions=[
            Direction(**ENGLISH_GERMAN, train=["a"], weight=3.0, valid=["b"]),
            Direction(**GERMAN_ENGLISH, train=["a"]),
            Direction(**ENGLISH_GERMAN, train=["b"]),
        ]
    )
    assert corpus.language_pairs == [("en", "de"), ("de", "en")]
    assert corpus.target_languages == ["de", "en"]
    splits = corpus.splits(None)
    assert [files.direction for files in splits.train] == ["en-de", "de-en", "en-de"]
    assert [files.weight for files in splits.train] == [3, 1, 1]
    (valid,) = splits.valid
    assert valid.weight == 1
    assert splits.test == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"train": ["a"]},
            "source_language is missing; or give the key directions for several\n"
            "target_language is missing; or give the key directions for several",
        ),
        (ENGLISH_GERMAN, "train is missing; or give the key directions for several"),
        (
            {"train": ["a"], "source_language": "de", "target_language": "de"},
            "target_language must differ from source_language, got 'de'",
        ),
        (
            {"directions": [Direction(**ENGLISH_GERMAN, train=["a"])], "valid": ["b"]},
            "valid must not be given beside directions, which have their own",
        ),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError) as caught:
        Parallel(**settings)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": []}, r"train must be a list of at least one item, got \[\]"),
        ({"target_language": "en"}, "target_language must differ from source_language, got 'en'"),
        ({"weight": 0.0}, "weight must be a number above 0, got 0"),
    ],
)
def test_settings_of_a_direction_are_checked(settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Direction(**{**ENGLISH_GERMAN, "train": ["a"], **settings})
