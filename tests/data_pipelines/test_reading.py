"""Python and TensorFlow read the same lines and words of the same file, or the file is refused."""

import gzip
import io
import os
import random
import tempfile

import hypothesis
import pytest
import tensorflow as tf
from hypothesis import strategies

from tfmoe.data_pipelines import (
    START,
    Subwords,
    TextError,
    Vocabulary,
    find_parallel,
    language_model_batches,
    parallel_batches,
    prepare_text,
    sentence_pairs,
    sentence_training_batches,
    survey,
)
from tfmoe.data_pipelines.graph_tokenization import split_words
from tfmoe.data_pipelines.reading import drop_byte_order_mark, line_dataset, read_lines
from tfmoe.data_pipelines.text import sentences

SETTINGS = hypothesis.settings(max_examples=150, deadline=None, derandomize=True)
# What readers treat in ways of their own, among words.
PIECES = [
    *"ab\r\n \t\v\f\0\x1c\x1f\x7f",
    *("\r\n", "\n\n", "\x85", "\xa0", "\u1680", "\u2028", "\u2029", "\u200b", "\u3000", "\ufeff"),
    *("naïve", "木曜日", "</S>", "\U0001f600", "x" * 300),
]
TEXTS = strategies.lists(strategies.sampled_from(PIECES), max_size=12).map("".join)
CONTENTS = TEXTS.map(str.encode) | strategies.binary(max_size=12)


@strategies.composite
def files(draw):
    """Name and bytes of a file: plain, or gzip of several members, perhaps damaged."""
    parts = draw(strategies.lists(CONTENTS, max_size=4))
    if draw(strategies.booleans()):
        return "a.txt", b"".join(parts)
    packed = b"".join(gzip.compress(part, draw(strategies.integers(0, 9))) for part in parts)
    damage = draw(strategies.sampled_from(["", "", "cut", "zeros", "bytes"]))
    if damage == "cut":
        packed = packed[: draw(strategies.integers(0, len(packed)))]
    elif damage:
        behind = strategies.binary(min_size=1, max_size=40)
        packed += b"\0" * draw(strategies.integers(1, 40)) if damage == "zeros" else draw(behind)
    return "a.txt.gz", packed


def write(folder, name, content):
    path = os.path.join(folder, name)
    with open(path, "wb") as file:
        file.write(content)
    return path


@pytest.fixture(scope="module")
def graph_words():
    """A function from a path to its `(lines, words)` by TensorFlow, traced once."""

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def read(path):
        lines = line_dataset(path).batch(10_000)
        empty = tf.constant([], tf.string)
        lines = lines.reduce(empty, lambda all, more: tf.concat([all, more], 0))
        return drop_byte_order_mark(lines), split_words(lines)

    def words(path):
        lines, words = read(path)
        return lines.numpy().tolist(), words.to_list()

    return words


@SETTINGS
@hypothesis.given(files())
def test_both_ways_give_the_same(graph_words, file):
    with tempfile.TemporaryDirectory() as folder:
        path = write(folder, *file)
        try:
            lines = list(read_lines(path))
        except TextError as error:
            assert str(error).startswith(path)
            return
        found, words = graph_words(path)
        if lines[-1:] == [b""]:  # a last line of nothing but what is dropped
            lines, found = lines[:-1], found[: len(lines) - 1]
        assert found == lines
        assert [each for each in words if each] == [each for _, each in sentences(path)]


def test_a_short_member_behind_an_empty_one(graph_words, tmp_path):
    """Wherever in the buffer of TensorFlow's reader the empty member ends: the name in its header
    moves it.
    """
    for name in range(1, 25):
        header = io.BytesIO()
        gzip.GzipFile("n" * name, "wb", fileobj=header).close()
        path = write(tmp_path, "a.txt.gz", header.getvalue() + gzip.compress(b"a"))
        assert graph_words(path)[0] == [b"a"], name


@pytest.fixture(scope="module")
def unusual(tmp_path_factory):
    """A file of 300 lines of unusual characters, after which every line has a word."""
    draw = random.Random(1)
    pieces = [piece for piece in PIECES if "\n" not in piece] + ["\ufeff\ufeff", "\u2581", "a\0"]
    lines = ["".join(draw.choices(pieces, k=draw.randint(1, 8))) + "a\n" for _ in range(300)]
    folder = tmp_path_factory.mktemp("unusual")
    for language in ("de", "en"):
        write(folder, f"a.{language}", "".join(lines).encode())
    return folder


def rows(dataset):
    """The ids of all rows of inputs, sorted, without padding."""
    return sorted(
        [index for index in row if index]
        for inputs, _ in dataset.as_numpy_iterator()
        for row in (inputs[1] if isinstance(inputs, tuple) else inputs).tolist()
    )


def test_ids_of_words(unusual, tmp_path):
    """In evaluation and in training."""
    file = str(unusual / "a.de")
    found = survey(file)
    assert "a\0a" in found.words and "a" in found.words
    vocabulary = Vocabulary.from_counts(found.words)
    vocabulary.save(unusual / "vocabulary.txt")
    assert Vocabulary.load(unusual / "vocabulary.txt").fingerprint == vocabulary.fingerprint
    sizes = {"batch_tokens": 4096, "max_length": 2000}
    expected = sorted(
        [START, *vocabulary.encode([word.decode() for word in words])]
        for _, words in sentences(file)
    )
    assert rows(language_model_batches(file, vocabulary, **sizes)) == expected
    text = prepare_text(file, tmp_path)
    assert text.survey == found
    batches = sentence_training_batches(text, vocabulary, tmp_path, **sizes)
    assert rows(batches.dataset().take(len(batches))) == expected


def test_ids_of_subwords(unusual):
    files = find_parallel(unusual / "a", "de", "en")
    every = [source for source, _ in sentence_pairs(files)]
    subwords = Subwords.train(every, 100)
    found = parallel_batches(files, subwords, batch_tokens=4096)
    # Of two ways of equal probability to cut a word, each library may take another.
    given = sorted((len(row) - 1, subwords.decode(row)) for row in rows(found))
    ids = map(subwords.encode, every)
    assert given == sorted((len(each), subwords.decode(each)) for each in ids)


def test_a_file_of_several_members(tmp_path):
    parts = [
        "".join(f"w{number} a\n" for number in range(part * 50)) for part in (0, 1, 0, 0, 2, 0)
    ]
    path = write(tmp_path, "a.txt.gz", b"".join(gzip.compress(part.encode()) for part in parts))
    found = survey(path)
    assert found.sentences == 150

    text = prepare_text(path, tmp_path)
    assert text.survey == found
    vocabulary = Vocabulary.from_counts(found.words)
    dataset = language_model_batches(path, vocabulary, batch_tokens=32, max_length=8)
    assert len(rows(dataset)) == sum(-(-(n + 1) // 8) * k for n, k in found.lengths.items())
