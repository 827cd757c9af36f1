import json
import pathlib

import pytest

from tfmoe.data_pipelines import Splits, TextError, sentence_pairs, survey
from tfmoe.data_pipelines.corpora import CORPORA, converted
from tfmoe.data_pipelines.corpora.files_of_records import JsonLinesText, ParallelJsonLines

GERMAN_ENGLISH = {"source_language": "de", "target_language": "en"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, *records):
    pathlib.Path(path).write_text("".join(json.dumps(record) + "\n" for record in records))


def test_text(folder):
    write(
        "a.jsonl", {"text": "one two\r\n\n three\n"}, {"text": None}, {"text": " "}, {"text": "x"}
    )
    write("b.jsonl", {"text": "y"})
    splits = JsonLinesText(train=["?.jsonl"], test=["b.jsonl"]).splits(folder / "cache")
    a, b = splits.train
    assert pathlib.Path(a).read_text().split("\n") == ["one two ", " three", "x", ""]
    assert pathlib.Path(b).read_text() == "y\n"
    assert splits == Splits([a, b], [], [b])
    assert survey(splits.train).lengths == {2: 1, 1: 3}
    notes = json.loads(pathlib.Path(a).with_name("corpus.json").read_text())
    assert (notes["records"], notes["counts"]) == (
        "a.jsonl", {"lines": 3, "records_without_text": 2},
    )  # fmt: skip


def test_running_text_is_split_into_words(folder):
    write("a.jsonl", {"d": {"t": "It's 12,345!\n…\n\n"}})
    corpus = JsonLinesText(train=["a.jsonl"], column="d.t", tokenization="text")
    (path,) = corpus.splits(folder / "cache").train
    assert pathlib.Path(path).read_text() == "it's 12 , 345 !\n…\n"
    pathlib.Path("b.txt").write_text("Ab,c\n")
    write("c.jsonl", {"d": {"t": "Ab,c"}})
    for path in corpus.find_files(["b.txt", "c.jsonl"], folder / "cache"):
        assert pathlib.Path(path).read_text() == "ab , c\n"


def test_text_is_written_again_when_the_records_changed(folder):
    def read(**settings):
        corpus = JsonLinesText(train=["a.jsonl"], **settings)
        (path,) = corpus.splits(folder / "cache").train
        return pathlib.Path(path).read_text(), pathlib.Path(path).stat().st_mtime_ns

    write("a.jsonl", {"text": "A", "b": "B"})
    first = read()
    assert first[0] == "A\n" and read() == first
    write("a.jsonl", {"text": "AA", "b": "B"})
    assert read()[0] == "AA\n"
    assert read(tokenization="text")[0] == "aa\n"
    (path,) = (folder / "cache").glob("a-*/a.txt")
    path.unlink()
    assert read(column="b")[0] == "B\n"


def test_equal_names_in_other_folders_are_other_text(folder):
    for name in "xy":
        (folder / name).mkdir()
        write(f"{name}/a.jsonl", {"text": name})
    one, other = JsonLinesText(train=["*/a.jsonl"]).splits(folder / "cache").train
    assert pathlib.Path(one).read_text() == "x\n" and pathlib.Path(other).read_text() == "y\n"


def test_corpora_with_equal_columns_share_their_text():
    one = JsonLinesText(train=["a"], column="x")
    assert one.cache_settings() == JsonLinesText(train=["b"], column="x").cache_settings()
    assert one.cache_settings() != JsonLinesText(train=["a"]).cache_settings()


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"text": "a"}, {"txt": "b"}], "a.jsonl:2: there is no column 'text'; did you mean txt?"),
        ([{"txt": "a"}], "a.jsonl: there is no column 'text' (data.column); did you mean txt?"),
        ([{"text": None}, {"text": "\n"}], "a.jsonl: no record has text in text"),
        ([{"text": "a"}, {"text": 1}], "a.jsonl:2: column 'text' must be text, got 1 of type int"),
    ],
)
def test_what_is_no_text(folder, records, message):
    write("a.jsonl", *records)
    with pytest.raises(TextError) as caught:
        JsonLinesText(train=["a.jsonl"]).splits(folder / "cache")
    assert str(caught.value).startswith(message)
    assert list((folder / "cache").rglob("*.*")) == []


def test_a_full_disk(folder, full_disk):
    write("a.jsonl", {"text": "a" * 100_000})
    with full_disk(50_000), pytest.raises(OSError) as caught:
        JsonLinesText(train=["a.jsonl"]).splits(folder / "cache")
    assert caught.value.filename.endswith("/a.txt")
    assert list((folder / "cache").rglob("*.*")) == []


def test_progress(folder, monkeypatch, capsys):
    monkeypatch.setattr(converted, "SECONDS_BETWEEN_REPORTS", 0)
    write("a.jsonl", {"text": "a"}, {"text": "b"})
    JsonLinesText(train=["a.jsonl"]).splits(folder / "cache")
    assert capsys.readouterr().out == (
        "a.jsonl: 1 records written as text\na.jsonl: 2 records written as text\n"
    )


@pytest.mark.parametrize(
    ("settings", "record"),
    [
        ({}, {"de": "eins\r\nzwei", "en": "one"}),
        ({}, {"translation": {"de": "eins\r\nzwei", "en": "one"}}),
        ({"source_column": "a", "target_column": "b.c"}, {"a": "eins\nzwei", "b": {"c": "one"}}),
    ],
)
def test_pairs(folder, settings, record):
    write("a.jsonl", record, record)
    corpus = ParallelJsonLines(**GERMAN_ENGLISH, **settings, train=["a.jsonl"], valid=["a.jsonl"])
    splits = corpus.splits(folder / "cache")
    (files,) = splits.train
    assert splits == Splits([files], [files], [])
    assert (files.direction, corpus.language_pairs) == ("de-en", [("de", "en")])
    assert [name[-5:] for name in files.source + files.target] == ["/a.de", "/a.en"]
    assert list(sentence_pairs(files)) == [("eins zwei", "one")] * 2


def test_pairs_with_an_empty_side(folder):
    write("a.jsonl", {"de": "a", "en": "b"}, {"de": "a", "en": None}, {"de": "c", "en": "d"})
    with pytest.raises(TextError) as caught:
        ParallelJsonLines(**GERMAN_ENGLISH, train=["a.jsonl"]).splits(folder / "cache")
    assert str(caught.value) == (
        "a.jsonl:2: column 'en' is empty, so the other side has no translation; remove the record,"
        " or set data.empty_sides: skip"
    )
    corpus = ParallelJsonLines(**GERMAN_ENGLISH, train=["a.jsonl"], empty_sides="skip")
    (files,) = corpus.splits(folder / "cache").train
    assert list(sentence_pairs(files)) == [("a", "b"), ("c", "d")]
    with pytest.raises(ValueError, match=r"^target_language must differ from source_language"):
        ParallelJsonLines(source_language="de", target_language="de", train=["a.jsonl"])


def test_columns_of_pairs_that_are_missing(folder):
    write("a.jsonl", {"de": "a", "english": "b"})
    with pytest.raises(TextError) as caught:
        ParallelJsonLines(**GERMAN_ENGLISH, train=["a.jsonl"]).splits(folder / "cache")
    assert str(caught.value) == (
        "a.jsonl: there is no column 'en' or 'translation.en' (data.target_column). The columns"
        " are: de, english"
    )


def test_other_corpora_are_evaluated_on_records_too(folder):
    write("a.jsonl", {"text": "x y", "de": "a", "en": "b"})
    pathlib.Path("t.txt").write_text("z\n")
    for side in ("de", "en"):
        pathlib.Path(f"p.{side}").write_text(f"{side}\n")
    text = CORPORA["language"]["text"](train=["none"])
    files = text.find_files(["a.jsonl", "t.txt"], folder / "cache")
    assert [pathlib.Path(file).read_text() for file in files] == ["x y\n", "z\n"]
    assert files[1] == "t.txt"
    parallel = CORPORA["parallel"]["parallel"](**GERMAN_ENGLISH, train=["none"])
    files = parallel.find_files(["a.jsonl", "p"], ("de", "en"), folder / "cache")
    assert list(sentence_pairs(files)) == [("de", "en"), ("a", "b")]
    with pytest.raises(TextError, match=r"c\.jsonl: no such file"):
        parallel.find_files(["c.jsonl"], ("de", "en"), folder / "cache")


def test_parquet(folder):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    rows = [{"text": "a b", "translation": {"de": "c", "en": "d"}}] * 2
    parquet.write_table(pyarrow.Table.from_pylist(rows), "a.parquet")
    corpus = CORPORA["language"]["parquet"](train=["a.parquet"])
    (path,) = corpus.splits(folder / "cache").train
    assert pathlib.Path(path).read_text() == "a b\na b\n"
    corpus = CORPORA["parallel"]["parquet"](**GERMAN_ENGLISH, train=["*.parquet"])
    (files,) = corpus.splits(folder / "cache").train
    assert list(sentence_pairs(files)) == [("c", "d")] * 2
