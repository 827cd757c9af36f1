import re

import pytest

from tfmoe.data_pipelines import TextError
from tfmoe.data_pipelines.corpora.wmt14 import Wmt14


def wmt14(root, source, target):
    """The splits of the corpus below a directory."""
    return Wmt14(root=str(root), source_language=source, target_language=target).splits(None)


FRENCH = [
    "europarl/training/europarl-v7.fr-en.en",
    "europarl/training/europarl-v7.fr-en.fr",
    "commoncrawl.fr-en.en",
    "commoncrawl.fr-en.fr",
    "commoncrawl.de-en.de",
    "commoncrawl.de-en.en",
    "un/undoc.2000.fr-en.en",
    "un/undoc.2000.fr-en.fr",
    "nc/training/news-commentary-v9.fr-en.en",
    "nc/training/news-commentary-v9.fr-en.fr",
    "giga-fren.release2.fixed.en.gz",
    "giga-fren.release2.fixed.fr.gz",
    "dev/newstest2012.en",
    "dev/newstest2012.fr",
    "dev/newstest2012-src.en.sgm",
    "dev/newstest2012-ref.fr.sgm",
    "dev/newstest2013-src.en.sgm",
    "dev/newstest2013-ref.fr.sgm",
    "dev/newstest2013-src.fr.sgm",
    "test/newstest2014-fren-src.en.sgm",
    "test/newstest2014-fren-ref.fr.sgm",
    "test-full/newstest2014-fren-src.en.sgm",
    "test-full/newstest2014-fren-ref.fr.sgm",
]


def touch(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names(files, root):
    return [tuple(path.removeprefix(f"{root}/") for path in pair) for pair in files.file_pairs]


def test_files(tmp_path):
    touch(tmp_path, FRENCH)
    splits = wmt14(tmp_path, "en", "fr")
    (train,), (valid,), (test,) = splits.train, splits.valid, splits.test
    expected = [name for name in FRENCH[:12] if "de-en" not in name]
    assert names(train, tmp_path) == list(zip(expected[::2], expected[1::2], strict=True))
    assert names(valid, tmp_path) == [
        ("dev/newstest2012.en", "dev/newstest2012.fr"),
        ("dev/newstest2013-src.en.sgm", "dev/newstest2013-ref.fr.sgm"),
    ]
    assert names(test, tmp_path) == [
        ("test-full/newstest2014-fren-src.en.sgm", "test-full/newstest2014-fren-ref.fr.sgm")
    ]
    assert (test.source_language, test.target_language) == ("en", "fr")


GERMAN = [
    "commoncrawl.de-en.de",
    "commoncrawl.de-en.en",
    "newstest2013.de",
    "newstest2013.en",
    "newstest2014-deen-src.de.sgm",
    "newstest2014-deen-ref.en.sgm",
]


def test_missing_files_are_named(tmp_path):
    touch(tmp_path, GERMAN)
    with pytest.raises(TextError) as error:
        wmt14(tmp_path, "de", "en")
    assert str(error.value) == (
        f"{tmp_path}: these files of WMT 2014 are missing below it: "
        "europarl-v7.de-en.de and europarl-v7.de-en.en or"
        " europarl-v7.en-de.de and europarl-v7.en-de.en; "
        "news-commentary-v9.de-en.de and news-commentary-v9.de-en.en or"
        " news-commentary-v9.en-de.de and news-commentary-v9.en-de.en"
    )


def test_german_needs_neither_the_un_nor_the_giga_corpus(tmp_path):
    more = [
        f"{name}.de-en.{side}"
        for name in ("europarl-v7", "news-commentary-v9")
        for side in ("de", "en")
    ]
    touch(tmp_path, [*GERMAN, *more])
    splits = wmt14(tmp_path, "de", "en")
    (train,), (valid,), (test,) = splits.train, splits.valid, splits.test
    assert names(train, tmp_path)[1] == ("commoncrawl.de-en.de", "commoncrawl.de-en.en")
    assert len(train.source) == 3
    assert names(valid, tmp_path) == [("newstest2013.de", "newstest2013.en")]
    assert names(test, tmp_path) == [
        ("newstest2014-deen-src.de.sgm", "newstest2014-deen-ref.en.sgm")
    ]


def test_errors(tmp_path):
    with pytest.raises(TextError, match="/nowhere: no such directory"):
        wmt14(tmp_path / "nowhere", "en", "fr")
    with pytest.raises(
        TextError, match=r"newstest2014\.en and newstest2014\.fr or .*; newstest2012"
    ):
        wmt14(tmp_path, "en", "fr")
    touch(tmp_path, [*FRENCH, "copy/commoncrawl.fr-en.en", "copy/commoncrawl.fr-en.fr"])
    one, other = (re.escape(f"{tmp_path}/{name}") for name in (FRENCH[2], f"copy/{FRENCH[2]}"))
    with pytest.raises(TextError, match=f"{one} and {other}: two copies; remove one of them"):
        wmt14(tmp_path, "en", "fr")


def test_languages():
    corpus = Wmt14(root="x", target_language="fr")
    assert corpus.language_pairs == [("en", "fr")]
    assert (corpus.target_languages, corpus.empty_sides) == ([], "skip")
    with pytest.raises(
        ValueError, match=r"^target_language must differ from source_language, got 'en'"
    ):
        Wmt14(root="x", target_language="en")
