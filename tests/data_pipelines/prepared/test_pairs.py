"""Parallel text: prepared once, and read in batches of pairs."""

import collections
import dataclasses
import itertools
import os
import pathlib
import random
import time

import numpy as np
import pytest
import tensorflow as tf

from tfmoe.data_pipelines import (
    ParallelFiles,
    Subwords,
    TextError,
    find_parallel,
    pair_lengths,
    pair_training_batches,
    parallel_batches_per_pass,
    prepare_pairs,
    sentence_pairs,
    survey_parallel,
)
from tfmoe.data_pipelines.prepared.cached import Progress, content_of
from tfmoe.data_pipelines.prepared.surveys import prepared_subwords, prepared_survey

SIZES = {"batch_tokens": 120, "max_length": 20}
WORDS = {
    "de": ["der", "Hund", "Katze", "sah", "und", "über", "Straße"],
    "en": ["the", "dog", "cat", "saw", "and", "over", "street"],
}


def write_pairs(folder, name, count, seed):
    """Pairs of 1 to 12 words; pair 5 has an empty source."""
    draw = random.Random(seed)
    lines = {language: [] for language in WORDS}
    for index in range(count):
        length = draw.randint(1, 10)
        for language, side in lines.items():
            words = draw.choices(WORDS[language], k=length + draw.randint(0, 2))
            side.append("" if (index, language) == (5, "de") else " ".join(words))
    for language, side in lines.items():
        (folder / f"{name}.{language}").write_text("\n".join(side) + "\n", encoding="utf-8")
    return find_parallel(folder / name, "de", "en")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pairs")


@pytest.fixture(scope="module")
def german(folder):
    write_pairs(folder, "a0", 90, 0)
    write_pairs(folder, "a1", 60, 1)
    return find_parallel(folder / "a?", "de", "en")


@pytest.fixture(scope="module")
def english(german):
    """The same files, in the other direction."""
    return ParallelFiles(german.target, german.source, "en", "de")


@pytest.fixture(scope="module")
def subwords(german):
    sides = (side for pair in sentence_pairs(german, "skip") for side in pair)
    return Subwords.train(sides, 70, languages=["de", "en"])


def read(batches, begin, count):
    return [
        tuple(array.tolist() for array in tf.nest.flatten(batch))
        for batch in itertools.islice(batches.dataset(begin).as_numpy_iterator(), count)
    ]


def pairs_of(found, subwords, tag_language=False):
    """The pairs of batches, as a Counter of text; the form is checked."""
    pairs = collections.Counter()
    for batch in found:
        source, inputs, targets = map(np.array, batch)
        assert inputs.shape == targets.shape and len(source) == len(inputs)
        assert len(source) == 1 or source.size + inputs.size <= 120
        assert (inputs[:, 0] == 1).all()
        assert np.array_equal(np.where(inputs[:, 1:] != 0, targets[:, :-1], 0), inputs[:, 1:])
        for row in zip(source, inputs, targets, strict=True):
            lengths = [int(np.count_nonzero(part)) for part in row[:2]]
            assert all(part[:size].all() for part, size in zip(row, lengths, strict=False))
            assert not row[2][lengths[1] - 1 :].any()
            tag = subwords.piece(int(row[0][0])) if tag_language else ""
            pairs[tag + subwords.decode(row[0]), subwords.decode(row[2])] += 1
    return pairs


def expected(files, subwords, tag=""):
    return collections.Counter(
        (tag + source, target)
        for source, target in sentence_pairs(files, "skip")
        if max(len(subwords.encode(source)), len(subwords.encode(target))) <= 20
    )


def test_every_pair_comes_once_in_a_pass(german, english, subwords, tmp_path):
    """Both directions of the same files, which are kept once."""
    files = [german, english]
    text = prepare_pairs(files, subwords, tmp_path, shard_positions=400)
    assert len(list(tmp_path.glob("pieces-*"))) == 4
    assert text.lengths == pair_lengths(files, subwords)
    options = {**SIZES, "tag_language": True}
    batches = pair_training_batches(text, subwords, tmp_path, **options)
    assert len(batches) == parallel_batches_per_pass(text.lengths, **options)
    every = expected(german, subwords, "<2en>") + expected(english, subwords, "<2de>")
    assert 0 < 298 - every.total() < 200  # some are too long
    for begin in (0, len(batches)):
        found = read(batches, begin, len(batches))
        assert pairs_of(found, subwords, tag_language=True) == every
    tags = [row[0] for batch in found for row in batch[0]]
    assert 0.3 < tags[: len(tags) // 2].count(3) / len(tags) * 2 < 0.7
    assert read(batches, 2 * len(batches) - 2, 2) == found[-2:]
    untagged = pair_training_batches(text, subwords, tmp_path, **SIZES)
    assert pairs_of(read(untagged, 0, len(untagged)), subwords).total() == every.total()


def test_weights(german, english, subwords, tmp_path):
    files = [german, dataclasses.replace(english, weight=4)]
    text = prepare_pairs(files, subwords, tmp_path)
    options = {"batch_tokens": 120, "max_length": None, "tag_language": True}
    batches = pair_training_batches(text, subwords, tmp_path, **options)
    found = read(batches, 0, 3 * len(batches))
    tags = [row[0] for batch in found for row in batch[0]]
    assert tags.count(3) / len(tags) == pytest.approx(0.8, abs=0.05)  # <2de>
    assert len(pairs_of(found, subwords, tag_language=True)) > 0.9 * 298


def test_a_replica_reads_its_rows_only(german, subwords, tmp_path):
    text = prepare_pairs([german], subwords, tmp_path)
    batches = pair_training_batches(text, subwords, tmp_path, **SIZES)
    for batch in range(len(batches)):
        parts = [batches.read(batch, replica, 3) for replica in range(3)]
        for whole, *shares in zip(batches.read(batch), *parts, strict=True):
            assert np.array_equal(np.concatenate(shares), whole)


def test_errors(german, subwords, tmp_path):
    (tmp_path / "x.de").write_text("der\nHund\n")
    (tmp_path / "x.en").write_text("the\n")
    files = find_parallel(tmp_path / "x", "de", "en")
    with pytest.raises(TextError, match=r"/x\.de has 2 lines, but .*/x\.en has 1"):
        prepare_pairs([files], subwords, tmp_path / "cache")
    text = prepare_pairs([german], subwords, tmp_path / "cache")
    for wrong, message in (
        ({"batch_tokens": 0}, "batch_tokens must be at least 1, got 0"),
        ({"max_length": 0}, "max_length must be at least 1, got 0"),
        ({"max_length": 1}, "no pair of sentences with at most 1 pieces on each side"),
    ):
        with pytest.raises(ValueError, match=message):
            pair_training_batches(text, subwords, tmp_path / "cache", **{**SIZES, **wrong})


def test_a_file_that_changes_between_its_digest_and_its_ids(subwords, tmp_path):
    """Here the subwords, which are asked for in between, change it."""
    files = write_pairs(tmp_path, "b", 20, 2)
    path = pathlib.Path(files.target[0])
    original, changed = path.read_text(), path.read_text().replace("dog", "dig")

    class ChangingSubwords(Subwords):
        @property
        def fingerprint(self):
            path.write_text(changed)
            return subwords.fingerprint

    with pytest.raises(TextError, match=r"b\.en: the file changed while it was read; begin again"):
        prepare_pairs([files], ChangingSubwords(subwords.serialized), tmp_path / "cache")
    path.write_text(original)
    _, target = prepare_pairs([files], subwords, tmp_path / "cache").sides[0]
    (ids,) = target.ids()
    assert subwords.decode(ids) == " ".join(original.splitlines())


def in_processes(function, count):
    """Calls a function in some processes at the same time, and waits for them."""
    processes = []
    for _ in range(count):
        process = os.fork()
        if not process:
            function()
            os._exit(0)
        processes.append(process)
    assert [os.waitpid(process, 0)[1] for process in processes] == [0] * count


def test_one_of_several_processes_reads(tmp_path):
    """The others wait, and take what it stored."""
    files = write_pairs(tmp_path, "b", 20, 2)

    def log(name):
        with open(tmp_path / f"{name}.log", "a") as file:
            file.write("x")
        time.sleep(0.3)

    class LoggedProgress(Progress):
        def add(self, units):
            log("content")

    class LoggedFiles(ParallelFiles):
        @property
        def file_pairs(self):
            log("survey")
            return super().file_pairs

    def read():
        content_of(files.source[0], tmp_path / "cache", LoggedProgress("", 1, "bytes"))
        prepared_survey(
            LoggedFiles(files.source, files.target, "de", "en"), tmp_path / "cache", "skip"
        )

    in_processes(read, 3)
    assert {name: (tmp_path / f"{name}.log").read_text() for name in ("content", "survey")} == {
        "content": "x",
        "survey": "x",
    }


@pytest.mark.parametrize("what", ["surveys", "subwords"])
def test_a_file_that_changes_while_it_is_surveyed(subwords, tmp_path, what):
    files = write_pairs(tmp_path, "b", 20, 2)
    path = pathlib.Path(files.target[0])

    class ChangingFiles(ParallelFiles):
        """Files, one of which changes when the pairs are asked for."""

        @property
        def file_pairs(self):
            path.write_text(path.read_text().replace("the", "thee"))
            return super().file_pairs

    def train():
        path.write_text(path.read_text() + "the\n")
        return subwords

    files = ChangingFiles(files.source * 2, files.target * 2, "de", "en")
    with pytest.raises(TextError, match=r"b\.en: the file changed while it was read; begin again"):
        if what == "surveys":
            prepared_survey(files, tmp_path / "cache", "skip")
        else:
            prepared_subwords([files], tmp_path / "cache", {}, train)
    assert not list((tmp_path / "cache" / what).glob("*.[jm]*"))


def test_surveys_and_subwords_are_kept(german, subwords, tmp_path):
    found = prepared_survey(german, tmp_path, "skip")
    assert found == survey_parallel(german, empty="skip") and found.empty == 2
    settings, trained = {"size": 70}, []

    def train():
        trained.append(1)
        return subwords

    for _ in range(2):
        known = prepared_subwords([german], tmp_path, settings, train)
        assert known.fingerprint == subwords.fingerprint
    prepared_subwords([german], tmp_path, {"size": 71}, train)
    assert len(trained) == 2
    folder = tmp_path / "subwords"  # who trains other subwords need not wait
    names = [{path.stem for path in folder.glob(f"*.{ending}")} for ending in ("model", "lock")]
    assert names[0] == names[1] and len(names[0]) == 2
    with pytest.raises(TextError, match="the line is blank"):
        prepared_survey(german, tmp_path, "error")
