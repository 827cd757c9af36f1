import gzip

import pytest

from tfmoe.data_pipelines import (
    ParallelFiles,
    Subwords,
    TextError,
    count_longer,
    find_parallel,
    sentence_pairs,
    survey_parallel,
)


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
    with pytest.raises(TextError, match=r"/a\.de:2: the line is blank, so the other side has n"):
        list(sentence_pairs(files))
    assert list(sentence_pairs(files, empty="skip")) == [("eins", "one"), ("vier", "four")]
    with pytest.raises(TextError, match=r"/a\.de:2: the line is blank"):
        survey_parallel(files)
    survey = survey_parallel(files, empty="skip")
    assert (survey.pairs, survey.empty, survey.lengths) == (2, 3, None)
    for reading in (survey_parallel, lambda files, empty: list(sentence_pairs(files, empty))):
        with pytest.raises(ValueError, match="empty must be 'error' or 'skip', got 'keep'"):
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


def test_pairs_of_sgm_files(tmp_path):
    write(tmp_path, a_sgm="<seg id='1'>ja</seg><seg id='2'>nein</seg>")
    write(tmp_path, b_sgm="<seg id='1'>yes</seg><seg id='2'> </seg>")
    files = ParallelFiles([f"{tmp_path}/a.sgm"], [f"{tmp_path}/b.sgm"], "de", "en")
    assert list(sentence_pairs(files, empty="skip")) == [("ja", "yes")]
    with pytest.raises(TextError, match=r"/b\.sgm, segment 2: the line is blank"):
        list(sentence_pairs(files))
