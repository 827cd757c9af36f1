"""Text of language models: prepared once, and read in batches."""

import collections
import dataclasses
import gzip
import itertools
import os
import pathlib
import signal
import time

import numpy as np
import pytest
import tensorflow as tf

from tfmoe.data_pipelines import (
    TextError,
    Vocabulary,
    batches_per_pass,
    prepare_text,
    sentence_training_batches,
    survey,
)
from tfmoe.data_pipelines.prepared.sentences import rows_of_lines
from tfmoe.data_pipelines.prepared.shards import Shards

SIZES = {"batch_tokens": 64, "max_length": 16}
SHARD = 1500  # positions


def files_of(folder):
    """`{name: (content, time of the last change)}` of all files of a folder, without locks."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".lock")
    }


def contents(folder):
    """The contents of the files of `files_of`."""
    return {name: content for name, (content, _) in files_of(folder).items()}


def arrays(dataset, count):
    return [
        tuple(array.tolist() for array in tf.nest.flatten(batch))
        for batch in itertools.islice(dataset.as_numpy_iterator(), count)
    ]


def test_a_literal_batch(tmp_path):
    (tmp_path / "a.txt").write_text("the cat sat\n\n\ufeffa dog\nthe </S> a a a a\n")
    vocabulary = Vocabulary(["</S>", "<S>", "<UNK>", "the", "cat", "sat", "a"])
    text = prepare_text(tmp_path / "a.txt", tmp_path / "cache")
    assert text.words == ["the", "cat", "sat", "a", "dog", "</S>"]
    assert text.table(vocabulary).tolist() == [0, 3, 4, 5, 6, 2, 2]
    sizes = {"batch_tokens": 20, "max_length": 5}
    batches = sentence_training_batches(text, vocabulary, tmp_path / "cache", **sizes)
    # 4, 3 and 7 predictions; the last ones are cut into rows of 5 and 2.
    (batch,) = arrays(batches.dataset(), len(batches))
    assert sorted(zip(*batch, strict=True)) == [
        ([1, 3, 2, 6, 6], [3, 2, 6, 6, 6]),
        ([1, 3, 4, 5, 0], [3, 4, 5, 0, 0]),
        ([1, 6, 2, 0, 0], [6, 2, 0, 0, 0]),
        ([6, 6, 0, 0, 0], [6, 0, 0, 0, 0]),
    ]


def test_every_word_is_predicted_once_in_a_pass(corpus, vocabulary, tmp_path):
    text = prepare_text(corpus, tmp_path, shard_positions=SHARD)
    assert len(text.shards.index["shards"]) == 3
    found = survey(corpus)
    assert text.survey == found and list(text.words)[:2] == ["s0w0", "s0w1"]
    batches = sentence_training_batches(text, vocabulary, tmp_path, **SIZES)
    assert len(batches) == batches_per_pass(found.lengths, **SIZES)
    expected = collections.Counter({"</S>": found.sentences}) + found.words
    for start in (0, len(batches)):
        counts = collections.Counter()
        for inputs, targets in batches.dataset(start).take(len(batches)).as_numpy_iterator():
            assert inputs.dtype == targets.dtype == np.int32
            counts.update(vocabulary.decode(targets[inputs != 0].tolist()))
            assert not targets[inputs == 0].any()
            # An input is the target before it, or the beginning of a line or the rest of one.
            assert (inputs[:, 1:] == np.where(inputs[:, 1:] != 0, targets[:, :-1], 0)).all()
            assert len(inputs) <= 64 // len(inputs[0])
        assert counts == expected


def test_batches_depend_on_number_and_seed_only(corpus, vocabulary, tmp_path):
    text = prepare_text(corpus, tmp_path / "one")
    batches = sentence_training_batches(text, vocabulary, tmp_path / "one", **SIZES)
    whole = arrays(batches.dataset(), len(batches) + 5)
    other = prepare_text(corpus, tmp_path / "two", shard_positions=SHARD)
    again = sentence_training_batches(other, vocabulary, tmp_path / "two", **SIZES)
    for start in (3, len(batches) - 1):
        assert arrays(again.dataset(start), 3) == whole[start : start + 3]
    seeded = sentence_training_batches(text, vocabulary, tmp_path / "one", **SIZES, seed=1)
    assert arrays(seeded.dataset(), 5) != whole[:5]
    # Far behind: no batch is read to get there.
    assert arrays(batches.dataset(10**9), 1) != whole[:1]


def test_a_replica_reads_its_rows_only(corpus, vocabulary, tmp_path):
    text = prepare_text(corpus, tmp_path)
    batches = sentence_training_batches(text, vocabulary, tmp_path, **SIZES)
    whole = arrays(batches.dataset(), 6)
    # Two processes, of two and one replicas.
    parts = [*arrays(batches.dataset(0, 0, 2, 3), 12), *arrays(batches.dataset(0, 2, 1, 3), 6)]
    for index, batch in enumerate(whole):
        shares = [parts[2 * index], parts[2 * index + 1], parts[12 + index]]
        for array, rows in enumerate(batch):
            assert [row for share in shares for row in share[array]] == rows


def test_each_of_two_workers_reads_half_of_the_rows(corpus, vocabulary, tmp_path):
    class CountedShards(Shards):
        rows = 0

        def read(self, begins, width):
            self.rows += len(begins)
            return super().read(begins, width)

    text = prepare_text(corpus, tmp_path)
    counts = []
    for worker in range(2):
        shards = CountedShards(text.shards.folder, text.shards.index)
        counted = dataclasses.replace(text, shards=shards)
        batches = sentence_training_batches(counted, vocabulary, tmp_path, **SIZES)
        for batch in range(len(batches)):
            batches.read(batch, worker, 2)
        counts.append(shards.rows)
    total = sum(-(-(n + 1) // 16) * count for n, count in text.lengths.items())
    assert sum(counts) == total
    # A batch of an odd number of rows gives the second worker one more.
    assert 0 <= counts[1] - counts[0] <= len(batches)


def test_nothing_is_read_again(corpus, tmp_path):
    """Files of other content, but of the same size and time of change, are taken for unchanged."""
    copies = []
    for path in corpus:
        copies.append(tmp_path / pathlib.Path(path).name)
        copies[-1].write_bytes(pathlib.Path(path).read_bytes())
    text = prepare_text(copies, tmp_path / "cache")
    before = files_of(tmp_path / "cache")
    for path in copies:
        times = path.stat()
        path.write_bytes(b"x" * times.st_size)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    again = prepare_text(copies, tmp_path / "cache")
    assert again.survey == text.survey and files_of(tmp_path / "cache") == before


def test_same_content_elsewhere_is_not_prepared_again(corpus, tmp_path):
    text = prepare_text(corpus, tmp_path / "cache")
    before = files_of(text.shards.folder)
    copies = []
    for path in corpus:
        copies.append(tmp_path / pathlib.Path(path).name)
        copies[-1].write_bytes(pathlib.Path(path).read_bytes())
    assert prepare_text(copies, tmp_path / "cache").content == text.content
    os.utime(copies[0], (1, 1))
    assert prepare_text(copies, tmp_path / "cache").content == text.content
    assert files_of(text.shards.folder) == before
    copies[0].write_text("another text\n")
    other = prepare_text(copies, tmp_path / "cache")
    assert other.content != text.content and "another" in other.survey.words
    # The bytes of a gzip file are text if its name does not say so.
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"a b\n"))
    assert prepare_text(tmp_path / "b.gz", tmp_path / "cache").words == ["a", "b"]


def killed_while_writing(files, folder, shards):
    """Prepares text in a process that is killed when it has finished a number of shards."""
    process = os.fork()
    if not process:
        prepare_text(files, folder, shard_positions=SHARD)
        os._exit(0)
    end = time.monotonic() + 60
    while len(list(folder.glob("words-*/0*.json"))) < shards and time.monotonic() < end:
        time.sleep(0.001)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def test_it_goes_on_behind_the_last_shard(tmp_path):
    """A shard has at least what is read at a time, 128 kB."""
    lines = "".join(f"often w{word} w{word // 7}\n" for word in range(40_000))
    files = [tmp_path / "a.txt", tmp_path / "b.txt.gz"]
    files[0].write_text(lines)
    files[1].write_bytes(gzip.compress(lines.replace("w", "x").encode(), 1))
    whole = prepare_text(files, tmp_path / "whole", shard_positions=SHARD)
    for shards in (2, 6):
        killed_while_writing(files, tmp_path / "killed", shards)
        before = files_of(tmp_path / "killed")
        assert "index.json" not in str(before)
    text = prepare_text(files, tmp_path / "killed", shard_positions=SHARD)
    assert text.survey == whole.survey
    after = files_of(tmp_path / "killed")
    kept = [name for name in before if name in after and before[name] == after[name]]
    assert sum(name.endswith(".ids") for name in kept) >= 6
    assert contents(text.shards.folder) == contents(whole.shards.folder)  # and nothing is left over
    text.shards.check()


def test_processes_wait_for_each_other(corpus, tmp_path, capfd):
    processes = []
    for _ in range(3):
        process = os.fork()
        if not process:
            text = prepare_text(corpus, tmp_path, shard_positions=SHARD)
            text.shards.check()
            os._exit(0 if text.survey.sentences == 300 else 1)
        processes.append(process)
    assert [os.waitpid(process, 0)[1] for process in processes] == [0, 0, 0]
    text = prepare_text(corpus, tmp_path)
    assert {path.name.split(".")[-1] for path in text.shards.folder.iterdir()} == {
        "ids", "ends", "new", "json", "int64", "lock",
    }  # fmt: skip


def test_texts_without_words_and_arguments(tmp_path, corpus, vocabulary):
    (tmp_path / "a.txt").write_text("a\n")
    (tmp_path / "b.txt").write_text("\n \n")
    for _ in range(2):
        with pytest.raises(TextError, match=r"b.txt: the file has only blank lines"):
            prepare_text([tmp_path / "a.txt", tmp_path / "b.txt"], tmp_path / "cache")
    (tmp_path / "b.txt").write_bytes(b"good\n\xff\n")
    with pytest.raises(TextError, match=r"b.txt:2:1: byte 0xff is not valid UTF-8"):
        prepare_text([tmp_path / "a.txt", tmp_path / "b.txt"], tmp_path / "cache")
    with pytest.raises(TextError, match=r"c.txt: no such file"):
        prepare_text(tmp_path / "c.txt", tmp_path / "cache")
    text = prepare_text(corpus, tmp_path)
    for wrong in ({"batch_tokens": 0}, {"max_length": 0}, {"seed": -1}):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"{name} must be at least"):
            sentence_training_batches(text, vocabulary, tmp_path, **{**SIZES, **wrong})


def test_lines_are_taken_in_parts(corpus, tmp_path):
    """The rows of many lines are those of few."""
    text = prepare_text(corpus, tmp_path, shard_positions=SHARD)
    few, many = (list(rows_of_lines(text.shards, 16, count)) for count in (7, 1000))
    assert len(few) == 43 and len(many) == 1
    for parts in zip(zip(*few, strict=True), *many, strict=True):
        assert np.array_equal(np.concatenate(parts[0]), parts[1])
    assert many[0][1].sum() == text.survey.tokens + 300 and many[0][1].max() == 16
