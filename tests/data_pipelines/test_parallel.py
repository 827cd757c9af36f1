import gzip
import re

import pytest

from data_pipelines.parallel import (
    ParallelFiles,
    count_longer,
    find_parallel,
    read_sgm,
    sentence_pairs,
    survey_parallel,
    wmt14_files,
)
from data_pipelines.subwords import Subwords
from data_pipelines.text import TextError


def write(directory, **contents):
    """Writes files; `a_de="x"` is the file `a.de`."""
    for name, content in contents.items():
        path = directory / name.replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        content = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def found(directory, **contents):
    write(directory, **contents)
    return find_parallel(directory / "a", "de", "en")


def test_find_parallel(tmp_path):
    write(tmp_path, a_de="x", a_en="y", b_de_gz="x", b_en="y", c_de="x", c_en="y", c_de_gz="")
    root = str(tmp_path)
    assert find_parallel(tmp_path / "a", "en", "de", weight=2.0) == ParallelFiles(
        [f"{root}/a.en"], [f"{root}/a.de"], "en", "de", 2.0
    )
    both = ParallelFiles(
        [f"{root}/a.de", f"{root}/b.de.gz", f"{root}/c.de"],
        [f"{root}/a.en", f"{root}/b.en", f"{root}/c.en"],
        "de",
        "en",
    )
    assert find_parallel(tmp_path / "*", "de", "en") == both
    assert find_parallel([tmp_path / "a", tmp_path / "[abc]"], "de", "en") == both


def test_find_parallel_errors(tmp_path):
    write(tmp_path, a_de="x", b_en="y")
    with pytest.raises(TextError, match=r"/a\.en: no such file, nor .*/a\.en\.gz \(looked from /"):
        find_parallel(tmp_path / "a", "de", "en")
    with pytest.raises(TextError, match=r"/b\.de: no such file, nor .*/b\.de\.gz"):
        find_parallel(tmp_path / "b*", "de", "en")
    with pytest.raises(
        TextError, match=r"/c\*: no file matches .*/c\*\.de\[\.gz\] or .*/c\*\.en\[\.gz\] \(looked"
    ):
        find_parallel(tmp_path / "c*", "de", "en")
    with pytest.raises(TextError, match="no parallel text was named"):
        find_parallel([], "de", "en")


def test_parallel_files_are_checked():
    with pytest.raises(ValueError, match="source and target must be as many files; they are 1 and"):
        ParallelFiles(["a"], [], "de", "en")
    with pytest.raises(ValueError, match="weight must be more than 0; it is 0"):
        ParallelFiles(["a"], ["b"], "de", "en", 0)


def test_sentence_pairs(tmp_path):
    files = found(
        tmp_path,
        a_de="\ufeffein  Hund\t, \r\n Straße\u00a0 x \x0b\x0cy\n猫が座った",
        a_en_gz="a dog ,\nstreet\nthe cat sat\n",
    )
    assert list(sentence_pairs(files)) == [
        ("ein Hund ,", "a dog ,"),
        ("Straße\u00a0 x y", "street"),
        ("猫が座った", "the cat sat"),
    ]


def test_blank_sides(tmp_path):
    files = found(tmp_path, a_de="eins\n \t\ndrei\nvier\n\n", a_en="one\ntwo\n\nfour\n\n")
    with pytest.raises(TextError, match=r"/a\.de:2: nothing is here, so the other side has no tra"):
        list(sentence_pairs(files))
    assert list(sentence_pairs(files, empty="skip")) == [("eins", "one"), ("vier", "four")]
    with pytest.raises(TextError, match=r"/a\.de:2: nothing"):
        survey_parallel(files)
    survey = survey_parallel(files, empty="skip")
    assert (survey.pairs, survey.empty, survey.lengths) == (2, 3, None)
    for reading in (survey_parallel, lambda files, empty: list(sentence_pairs(files, empty))):
        with pytest.raises(ValueError, match="empty must be 'error' or 'skip'; it is 'keep'"):
            reading(files, empty="keep")


@pytest.mark.parametrize("de, en, counts", [("x\n" * 3, "y\n" * 5, "35"), ("x\n" * 9, "y", "91")])
def test_different_numbers_of_lines(tmp_path, de, en, counts):
    files = found(tmp_path, a_de=de, a_en=en)
    message = rf"/a\.de has {counts[0]} lines, but /.*/a\.en has {counts[1]}: line n of the one"
    with pytest.raises(TextError, match=message):
        survey_parallel(files)


def test_other_faults_of_files(tmp_path):
    files = found(tmp_path, a_de=b"gut\nschl\xffcht\n", a_en="good\nbad\n")
    with pytest.raises(TextError, match=r"/a\.de:2:5: byte 0xff is not valid UTF-8 \(invalid sta"):
        survey_parallel(files)
    with pytest.raises(TextError, match=r"/a\.de, /.*/a\.en: the files are empty; they must hold"):
        survey_parallel(found(tmp_path, a_de="", a_en=""))
    with pytest.raises(
        TextError, match=r"a\.de, .*a\.en: no pair of lines has words on both sides"
    ):
        survey_parallel(found(tmp_path, a_de="x\n\n", a_en="\ny\n"), empty="skip")
    files = found(tmp_path, a_de="x\n" * 9, a_en="y\n" * 9)
    (tmp_path / "a.en.gz").write_bytes(gzip.compress(b"y\n" * 9)[:-6])
    files = ParallelFiles(files.source, [f"{tmp_path}/a.en.gz"], "de", "en")
    with pytest.raises(TextError, match=r"/a\.en\.gz: damaged gzip file: "):
        survey_parallel(files)
    files = ParallelFiles(files.source, [f"{tmp_path}/b.en"], "de", "en")
    with pytest.raises(TextError, match=r"/b\.en: no such file"):
        survey_parallel(files)


def test_survey(tmp_path):
    write(tmp_path, a_de="ein Hund\neine Katze\n", a_en="a dog\na cat\n")
    write(tmp_path, b_de="zwei Hunde hier\n", b_en="two dogs here now\n")
    files = find_parallel(tmp_path / "*", "de", "en")
    subwords = Subwords.train((side for pair in sentence_pairs(files) for side in pair), 60)
    survey = survey_parallel(files, subwords)
    assert (survey.pairs, survey.empty) == (3, 0)
    assert (survey.source_words, survey.target_words) == (7, 8)
    pairs = [
        (len(subwords.encode(source)), len(subwords.encode(target)))
        for source, target in sentence_pairs(files)
    ]
    assert [sorted(counter.elements()) for counter in survey.lengths] == [
        sorted(pairs[:2]),
        pairs[2:],
    ]
    longest = sorted(map(max, pairs))
    assert count_longer(survey.lengths, longest[-1]) == 0
    assert count_longer(survey.lengths, longest[-1] - 1) == longest.count(longest[-1])
    assert count_longer(survey.lengths, 0) == 3


SGM = """<?xml version="1.0" encoding="UTF-8"?>
<srcset setid="newstest2014" srclang="any">
<doc sysid="ref" docid="1" genre="news" origlang="en">
<hl>
<seg id="1">Tom &amp; Jerry &lt;b&gt; &quot;x&quot; &#233;</seg>
</hl>
<p><SEG id="2"> 猫が
  座った </SEG><seg id='3'></seg></p>
</doc>
</srcset>
"""


def test_read_sgm(tmp_path):
    write(tmp_path, a_sgm=SGM, b_sgm_gz=SGM)
    expected = ['Tom & Jerry <b> "x" é'.encode(), "猫が 座った".encode(), b""]
    assert read_sgm(tmp_path / "a.sgm") == expected
    assert read_sgm(tmp_path / "b.sgm.gz") == expected


def test_read_sgm_errors(tmp_path):
    write(tmp_path, a_sgm="<seg id='1'>x</seg><seg id='2'>y", b_sgm="x\n", c_sgm=b"<seg>\nab\xff")
    with pytest.raises(TextError, match=r"/a\.sgm: segment 2 has no end </seg>"):
        read_sgm(tmp_path / "a.sgm")
    with pytest.raises(TextError, match=r"/b\.sgm: no <seg> in the file"):
        read_sgm(tmp_path / "b.sgm")
    with pytest.raises(TextError, match=r"/c\.sgm:2:3: byte 0xff is not valid UTF-8"):
        read_sgm(tmp_path / "c.sgm")


def test_pairs_of_sgm_files(tmp_path):
    write(tmp_path, a_sgm="<seg id='1'>ja</seg><seg id='2'>nein</seg>")
    write(tmp_path, b_sgm="<seg id='1'>yes</seg><seg id='2'> </seg>")
    files = ParallelFiles([f"{tmp_path}/a.sgm"], [f"{tmp_path}/b.sgm"], "de", "en")
    assert list(sentence_pairs(files, empty="skip")) == [("ja", "yes")]
    with pytest.raises(TextError, match=r"/b\.sgm, segment 2: nothing is here"):
        list(sentence_pairs(files))


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


def test_wmt14_files(tmp_path):
    touch(tmp_path, FRENCH)
    splits = wmt14_files(tmp_path, "en", "fr")
    train = [name for name in FRENCH[:12] if "de-en" not in name]
    assert names(splits.train, tmp_path) == list(zip(train[::2], train[1::2], strict=True))
    assert names(splits.valid, tmp_path) == [
        ("dev/newstest2012.en", "dev/newstest2012.fr"),
        ("dev/newstest2013-src.en.sgm", "dev/newstest2013-ref.fr.sgm"),
    ]
    assert names(splits.test, tmp_path) == [
        ("test-full/newstest2014-fren-src.en.sgm", "test-full/newstest2014-fren-ref.fr.sgm")
    ]
    assert (splits.test.source_language, splits.test.target_language) == ("en", "fr")


def test_wmt14_files_of_some_corpora(tmp_path):
    touch(
        tmp_path,
        ["commoncrawl.de-en.de", "commoncrawl.de-en.en", "newstest2013.de", "newstest2013.en"],
    )
    touch(tmp_path, ["newstest2014-deen-src.de.sgm", "newstest2014-deen-ref.en.sgm"])
    splits = wmt14_files(tmp_path, "de", "en", corpora=["commoncrawl"])
    assert names(splits.train, tmp_path) == [("commoncrawl.de-en.de", "commoncrawl.de-en.en")]
    assert names(splits.valid, tmp_path) == [("newstest2013.de", "newstest2013.en")]
    assert names(splits.test, tmp_path) == [
        ("newstest2014-deen-src.de.sgm", "newstest2014-deen-ref.en.sgm")
    ]
    with pytest.raises(TextError) as error:
        wmt14_files(tmp_path, "de", "en")
    assert str(error.value) == (
        f"{tmp_path}: these files of WMT 2014 are missing below it: "
        "europarl-v7.de-en.de and europarl-v7.de-en.en or"
        " europarl-v7.en-de.de and europarl-v7.en-de.en; "
        "news-commentary-v9.de-en.de and news-commentary-v9.de-en.en or"
        " news-commentary-v9.en-de.de and news-commentary-v9.en-de.en"
    )


def test_wmt14_errors(tmp_path):
    with pytest.raises(TextError, match="/nowhere: no such directory"):
        wmt14_files(tmp_path / "nowhere", "en", "fr")
    with pytest.raises(ValueError, match="no corpus 'books' in WMT 2014; there are europarl, comm"):
        wmt14_files(tmp_path, "en", "fr", corpora=["books"])
    with pytest.raises(
        TextError, match=r"newstest2014\.en and newstest2014\.fr or .*; newstest2012"
    ):
        wmt14_files(tmp_path, "en", "fr", corpora=["un"])
    touch(tmp_path, [*FRENCH, "copy/commoncrawl.fr-en.en", "copy/commoncrawl.fr-en.fr"])
    one, other = (re.escape(f"{tmp_path}/{name}") for name in (FRENCH[2], f"copy/{FRENCH[2]}"))
    with pytest.raises(TextError, match=f"{one} and {other}: there are two; remove one of them"):
        wmt14_files(tmp_path, "en", "fr")
