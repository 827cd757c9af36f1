import gzip
import json

import pytest

from tfmoe.data_pipelines import TextError
from tfmoe.data_pipelines.records.file_state import title_of
from tfmoe.data_pipelines.records.files import LINE, Lines, reader_of
from tfmoe.data_pipelines.records.json_lines import JsonLines
from tfmoe.data_pipelines.records.parquet import Parquet

RECORDS = [{"text": "a é\nb", "n": {"x": 1}}, {"text": None}, {"other": "c"}]


@pytest.mark.parametrize(
    ("path", "reader"),
    [
        ("a.jsonl", JsonLines), ("a.b/c.jsonl.gz", JsonLines), ("a.ndjson", JsonLines),
        ("a.json", JsonLines), ("a.parquet", Parquet), ("a.parquet.gz", None), ("a.txt", None),
        ("jsonl", None), ("a.jsonl/b", None),
    ],
)  # fmt: skip
def test_readers(path, reader):
    assert reader_of(path) is reader


def test_titles():
    names = ["x/a.jsonl.gz", "a.b.parquet", "a", "wmt/wmt14", "train[:10%]", ".", "ß ?.txt"]
    assert [title_of(name) for name in names] == ["a", "a.b", "a", "wmt14", "train_10", "text", "ß"]


def test_json_lines(tmp_path):
    lines = [json.dumps(record, ensure_ascii=False) for record in RECORDS]
    content = f"{lines[0]}\r\n\n{lines[1]}\n \n{lines[2]}".encode()
    for name, data in (("a.jsonl", content), ("a.jsonl.gz", gzip.compress(content))):
        path = tmp_path / name
        path.write_bytes(data)
        records = JsonLines(str(path))
        assert records.columns() == ["text", "n.x"]
        numbers = (1, 3, 5)
        assert list(records.read(["text"])) == list(zip(numbers, RECORDS, strict=True))
        assert records.place(3) == f"{path}:3"
        before = records.state()
        path.write_bytes(data + b"\n")
        assert records.state() != before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ": the file has no records; expected one JSON object per line"),
        (b"{}\n{'a': 1}\n", ":2:2: not JSON: Expecting property name"),
        (b'{"a": 1}\n{"a": "b"', ":2:10: not JSON: Expecting ',' delimiter"),
        (b"{}\n[1]\n", ":2: each line must be a JSON object, got a list"),
        (b"3\n", ":1: each line must be a JSON object, got a int"),
        (b'[{"a": 1}]\n', ":1: a JSON list; JSON lines have one object per line: jq -c '.[]'"),
        (b'[\n{"a": 1}]\n', ":1: a JSON list; JSON lines have one object per line: jq -c '.[]'"),
        (b'{"a": ' + b"9" * 5000 + b"}", ":1: not usable JSON: Exceeds the limit"),
        (b'{"a": ' * 200_000, ":1: not usable JSON: "),
        (b'{"a": "\xef"}\n', ":1:8: byte 0xef is not valid UTF-8"),
    ],
)
def test_what_is_no_json_lines(tmp_path, content, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(TextError) as caught:
        JsonLines(str(path)).columns()
        list(JsonLines(str(path)).read([]))
    assert str(caught.value).startswith(f"{path}{message}")


def test_lines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a b\n\nc")
    records = Lines(str(path))
    assert records.columns() == [LINE]
    assert list(records.read([LINE])) == [(1, {LINE: "a b"}), (2, {LINE: ""}), (3, {LINE: "c"})]
    assert records.state()[0] == 6 and records.place(2) == f"{path}:2"


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    rows = [{"id": n, "t": {"de": f"ä{n}", "en": None}, "u": "x"} for n in range(3000)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    records = Parquet(str(path))
    assert records.columns() == ["id", "t.de", "t.en", "u"]
    assert records.count == 3000
    read = list(records.read(["t.de", "u"]))
    assert read[0] == (1, {"t": {"de": "ä0"}, "u": "x"})  # the needed columns
    assert [number for number, _ in read] == list(range(1, 3001))
    assert records.place(7) == f"{path}: row 7"
    before = records.state()
    parquet.write_table(pyarrow.Table.from_pylist(rows[:9]), path)
    assert records.state() != before

    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(TextError, match=r"a\.parquet: cannot be read as a Parquet file: "):
        records.columns()
    array = pyarrow.Array.from_buffers(
        pyarrow.string(), 1, pyarrow.array([b"\xff"]).buffers()
    )  # not checked
    parquet.write_table(pyarrow.table({"a": array}), path)
    with pytest.raises(TextError, match=r"a\.parquet: one of the rows 1 to 1 is not valid UTF-8"):
        list(records.read(["a"]))


@pytest.mark.parametrize("reader", [JsonLines, Parquet, Lines])
def test_missing_files(tmp_path, reader):
    with pytest.raises(TextError, match="nowhere: no such file"):
        reader(f"{tmp_path}/nowhere").state()
    with pytest.raises(TextError, match="nowhere: no such file"):
        list(reader(f"{tmp_path}/nowhere").read([]))
