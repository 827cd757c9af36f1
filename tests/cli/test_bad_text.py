"""Invalid text is rejected, with the name of the file, before anything is trained. `prepare` does
everything that `train` does before training.
"""

import gzip
import os
import re

import pytest

from tfmoe.data_pipelines import TextError, Vocabulary, language_model_batches, survey
from tfmoe.data_pipelines.changes import stamps, unchanged

GOOD = gzip.compress(b"a b\n")
# Content of a file (or a function that creates it), and the expected error message.
FILES = {
    "empty.txt": (b"", "empty.txt: the file is empty; it must hold one sentence a line"),
    "empty.gz": (b"", "empty.gz: the file is empty"),
    "blank.txt": (b"\n \r\n\t\n", "blank.txt: the file has only blank lines"),
    "blank.gz": (gzip.compress(b"\n") * 2, "blank.gz: the file has only blank lines"),
    "latin.txt": (b"a\nna\xefve\n", "latin.txt:2:3: byte 0xef is not valid UTF-8"),
    "utf16.txt": ("a b\n".encode("utf-16"), "utf16.txt:1:1: byte 0xff is not valid UTF-8"),
    "plain.gz": (
        b"a b\n",
        "plain.gz: is not the gzip file that its name says: incorrect",
    ),
    "cut.gz": (GOOD[:-3], "cut.gz: damaged gzip file: it was cut off"),
    "sum.gz": (GOOD[:-8] + GOOD[:8], "sum.gz: damaged gzip file: incorrect data check"),
    "zeros.gz": (GOOD + b"\0" * 9, f"zeros.gz: damaged gzip file: from byte {len(GOOD) + 1} on"),
    "folder": (os.mkdir, "folder: is a directory"),
    "pipe": (os.mkfifo, "pipe: is a pipe or a device; text is read more than once"),
    "null": (lambda path: path.symlink_to("/dev/null"), "null: is a pipe or a device"),
    "loop": (lambda path: path.symlink_to(path), "cannot be read: Too many levels of symbolic"),
    "none": (lambda path: None, "none: no such file"),
}


def make(path, content):
    path.write_bytes(content) if isinstance(content, bytes) else content(path)


@pytest.mark.parametrize("name", FILES)
def test_text(refused, tmp_path, name):
    content, message = FILES[name]
    make(tmp_path / name, content)
    assert message in refused("prepare", "tiny.yaml", "--set", f"data.valid={tmp_path / name}")


def test_vocabulary(refused, tmp_path):
    def prepare(setting):
        return refused("prepare", "tiny.yaml", "--set", setting)

    path = tmp_path / "text"
    path.write_text("</S> <S>\n<UNK>\n")
    assert "text has no words but </S>, <S>, <UNK>, which stand" in prepare(f"data.train={path}")
    err = prepare("data.vocabulary.min_count=47")
    assert (
        "data.vocabulary.min_count: is 47, but the most frequent word, 'c', occurs 26 times" in err
    )
    path.write_text("</S>\n<S>\n<UNK>\n")
    file = f"data.vocabulary.file={path}"
    assert f"{path}: has only the special words; it must have other words" in prepare(file)
    path.unlink()
    os.mkfifo(path)
    assert f"{path}: is a pipe or a device" in prepare(file)


PARALLEL = """\
model:
  name: translation
  d_model: 4
  encoder: [{name: lstm, units: 4}]
  decoder: [{name: attention_lstm, units: 4}]
data:
  {name: parallel, train: good, valid: bad, source_language: en, target_language: de}
"""


@pytest.fixture
def parallel(tmp_path, monkeypatch):
    """A folder with a config and parallel text. `bad.en` and `bad.de` are its validation text."""
    for name in ("good", "bad"):
        (tmp_path / f"{name}.en").write_text("one\ntwo\n")
        (tmp_path / f"{name}.de").write_text("eins\nzwei\n")
    (tmp_path / "config.yaml").write_text(PARALLEL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("side", ["en", "de"])
@pytest.mark.parametrize("name", FILES)
def test_parallel_text(refused, parallel, name, side):
    content, message = FILES[name]
    (parallel / f"bad.{side}").unlink()
    bad = f"bad.{side}.gz" if name.endswith(".gz") else f"bad.{side}"
    make(parallel / bad, content)
    err = refused("prepare", "config.yaml")
    if name.startswith("empty"):
        assert re.search(rf"{re.escape(bad)} has 0\b", err)
    elif name.startswith("blank"):
        assert f"{bad}:1: the line is blank, so the other side has no translation; remove" in err
    else:
        assert message.replace(f"{name}:", f"{bad}:") in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("▁\n▁▁\n", "the text has no characters but ▁"),
        ("\n\n", "good.en:1: the line is blank"),
        ("x" * 5000 + "\n", "all sentences to train subwords on are too long"),
    ],
)
def test_parallel_text_without_subwords(refused, parallel, text, message):
    for side in ("en", "de"):
        (parallel / f"good.{side}").write_text(text)
    assert message in refused("prepare", "config.yaml")


def test_a_file_that_changes(tmp_path):
    path = str(tmp_path / "a.txt")

    def read(change):
        """Counts a file, changes it, and reads its batches."""
        (tmp_path / "a.txt").write_text("a b\n" * 20)
        with unchanged(stamps([path])):
            counts = survey(path)
            batches = language_model_batches(
                path,
                Vocabulary.from_counts(counts.words),
                batch_tokens=20,
                max_length=8,
                lengths=counts.lengths,
            )
            change()
            return sum(1 for _ in batches)

    assert read(lambda: None) == 10
    for text in ("", "a b\n" * 90):
        with pytest.raises(TextError, match=rf"{path}: the file changed while it was used; res"):
            read(lambda text=text: (tmp_path / "a.txt").write_text(text))
    with pytest.raises(TextError, match=rf"{path}: the file was removed while it was used"):
        read((tmp_path / "a.txt").unlink)
