"""Prepared text when disks are full, and files change or are damaged."""

import errno
import os
import shutil

import numpy as np
import pytest

from tfmoe.data_pipelines import TextError, prepare_text, sentence_training_batches
from tfmoe.data_pipelines.atomic_write import temporary_name
from tfmoe.data_pipelines.changes import stamps
from tfmoe.data_pipelines.prepared.cached import hint_if_full
from tfmoe.data_pipelines.prepared.shards import ShardWriter

SIZES = {"batch_tokens": 64, "max_length": 16}


def test_no_shard_of_a_changed_file_is_kept(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a b\n")
    writer = ShardWriter(tmp_path, stamps([path]))
    writer.write([2], [1, 2, 0])
    writer.finish_shard([0, 1])
    writer.write([1], [3, 0])
    path.write_text("a b\nc\n")
    message = r"a.txt: the file changed while it was read; begin again"
    with pytest.raises(TextError, match=message):
        writer.finish_shard([0, 2])
    writer.discard()
    with pytest.raises(TextError, match=message):
        writer.finish({})
    assert not list(tmp_path.glob("00001*")) and not (tmp_path / "index.json").exists()
    assert len(ShardWriter(tmp_path, stamps([path])).shards) == 1


@pytest.mark.parametrize("limit", [0, 3000, 12000, 46000])
def test_a_full_disk(corpus, tmp_path, full_disk, limit):
    with full_disk(limit), pytest.raises(OSError, match="File too large") as caught:
        prepare_text(corpus, tmp_path / "cache")
    assert str(tmp_path / "cache") in caught.value.filename
    assert "set TFMOE_CACHE to a folder on a disk with room" in caught.value.__notes__[0]
    assert not [path for path in (tmp_path / "cache").rglob("*.tmp")]
    assert prepare_text(corpus, tmp_path / "cache").survey.sentences == 300


def test_a_failing_disk_is_not_a_full_one(tmp_path):
    with pytest.raises(OSError) as caught, hint_if_full(tmp_path):
        raise OSError(errno.EIO, "Input/output error")
    assert caught.value.filename == str(tmp_path) and not hasattr(caught.value, "__notes__")


def replace(path, content):
    """Replaces a file. Those that have the old one mapped to memory keep it."""
    path.with_name("new").write_bytes(content)
    path.with_name("new").rename(path)


def test_damaged_files(corpus, vocabulary, tmp_path):
    text = prepare_text(corpus, tmp_path)
    ids = text.shards.folder / "00000.ids"
    good = ids.read_bytes()
    replace(ids, good[:100] + b"\x7f" + good[101:])
    with pytest.raises(TextError, match=rf"{ids}: the prepared text is damaged: its checksum is"):
        text.shards.check()
    replace(ids, good[:400] + b"\xff" * (len(good) - 800) + good[-400:])
    damaged = prepare_text(corpus, tmp_path)  # which only compares sizes
    batches = sentence_training_batches(damaged, vocabulary, tmp_path, **SIZES)
    with (
        pytest.raises(TextError, match=r"its shards have ids that do not exist; remove the folder"),
        batches.errors_named(),
    ):
        list(batches.dataset().take(3))
    replace(ids, good[:-4])
    message = rf"{ids}: .* bytes instead of {len(good):,}; remove the folder {ids.parent} and start"
    with pytest.raises(TextError, match=message):
        prepare_text(corpus, tmp_path)
    ids.unlink()
    with pytest.raises(TextError, match=rf"{ids}: the prepared text is damaged: it is missing"):
        prepare_text(corpus, tmp_path)
    replace(ids, good)
    prepare_text(corpus, tmp_path)
    index = text.shards.folder / "index.json"
    replace(index, index.read_bytes().replace(b'"shards"', b'"shard5"'))
    with pytest.raises(TextError, match=rf"{index}: the prepared text is damaged: its checksum"):
        prepare_text(corpus, tmp_path)


def test_damaged_positions_and_counts(corpus, vocabulary, tmp_path):
    text = prepare_text(corpus, tmp_path)
    begins = sentence_training_batches(text, vocabulary, tmp_path, **SIZES).rows.folder / "0.int64"
    good = np.fromfile(begins, "<i8")
    for damaged in (good + 10**9, -good):
        replace(begins, damaged.tobytes())
        batches = sentence_training_batches(text, vocabulary, tmp_path, **SIZES)
        with pytest.raises(TextError, match=rf"{begins}: .* it has positions that do not exist"):
            batches.read(0)
    replace(begins, np.roll(good, 1).tobytes())
    batches = sentence_training_batches(text, vocabulary, tmp_path, **SIZES)
    batches.read(0)
    with pytest.raises(TextError, match=rf"{begins}: the prepared text is damaged: its checksum"):
        batches.rows.check()
    replace(begins, b"")
    with pytest.raises(TextError, match=r"0.int64: the prepared text is damaged: it has 0 bytes"):
        sentence_training_batches(text, vocabulary, tmp_path, **SIZES)

    counts = text.shards.folder / "counts.int64"
    replace(counts, np.roll(np.fromfile(counts, "<i8"), 1).tobytes())
    message = rf"{counts}: the prepared text is damaged: its checksum is wrong"
    for use in (lambda text: text.survey, lambda text: text.shards.check()):
        with pytest.raises(TextError, match=message):
            use(prepare_text(corpus, tmp_path))


def test_rows_of_other_shards(vocabulary, tmp_path):
    """Positions depend on where shards begin: rows of text that is prepared anew are new."""
    lines = "".join(f"often w{word} w{word // 7}\n" for word in range(20_000))
    (tmp_path / "a.txt").write_text(lines)
    ids = []
    for shard_positions in (1500, 1 << 20):
        text = prepare_text(tmp_path / "a.txt", tmp_path / "cache", shard_positions)
        batches = sentence_training_batches(text, vocabulary, tmp_path / "cache", **SIZES)
        ids.append([array.tolist() for array in batches.read(0)])
        shutil.rmtree(text.shards.folder)
    assert ids[0] == ids[1]


def test_leftovers_of_a_killed_process_are_removed(corpus, vocabulary, tmp_path):
    text = prepare_text(corpus, tmp_path)
    rows = sentence_training_batches(text, vocabulary, tmp_path, **SIZES).rows
    process = os.fork()
    if not process:
        temporary_name(rows.folder / "0.int64").touch()
        os._exit(0)
    os.waitpid(process, 0)
    assert list(rows.folder.glob(".*.tmp"))
    (rows.folder / "index.json").unlink()
    sentence_training_batches(text, vocabulary, tmp_path, **SIZES)
    assert not list(rows.folder.glob(".*.tmp"))
