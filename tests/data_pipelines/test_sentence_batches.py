import collections
import random

import numpy as np
import pytest
import tensorflow as tf

from tfmoe.data_pipelines import (
    TextError,
    Vocabulary,
    batches_per_pass,
    bucket_boundaries,
    language_model_batches,
    survey,
)

SIZES = {"batch_tokens": 64, "max_length": 16}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Three files, 300 sentences of 1 to 40 words, all words different but a few: "f1s20w3"."""
    directory = tmp_path_factory.mktemp("corpus")
    lengths = random.Random(1)
    for file in range(3):
        lines = [
            " ".join(f"f{file}s{line}w{word}" for word in range(lengths.randint(1, 40)))
            for line in range(100)
        ]
        (directory / f"{file}.txt").write_text("\n\n".join(lines) + "\n")
    return sorted(map(str, directory.glob("*.txt")))


@pytest.fixture(scope="module")
def vocabulary(corpus):
    return Vocabulary.from_counts(survey(corpus).words)


def batches(*arguments, **options):
    dataset = language_model_batches(*arguments, **{**SIZES, **options})
    return [(inputs.tolist(), targets.tolist()) for inputs, targets in dataset.as_numpy_iterator()]


def predicted(found, vocabulary):
    """How often each word is a target, the end of sentences included, padding not."""
    counts = collections.Counter()
    for inputs, targets in found:
        inputs, targets = np.array(inputs), np.array(targets)
        counts.update(vocabulary.decode(targets[inputs != 0].tolist()))
        assert not targets[inputs == 0].any()
    return counts


def expected(files):
    found = survey(files)
    return collections.Counter({"</S>": found.sentences}) + found.words


def test_a_literal_batch(tmp_path):
    (tmp_path / "a.txt").write_text("the cat sat\n\na dog\nthe </S> end\n")
    vocabulary = Vocabulary(["</S>", "<S>", "<UNK>", "the", "cat", "sat", "a", "end"])
    found = list(
        language_model_batches(
            tmp_path / "a.txt",
            vocabulary,
            batch_tokens=16,
            max_length=5,
        )
    )
    inputs, targets = found[0]
    assert len(found) == 1 and inputs.dtype == targets.dtype == "int32"
    assert inputs.numpy().tolist() == [[1, 3, 4, 5, 0], [1, 6, 2, 0, 0], [1, 3, 2, 7, 0]]
    assert targets.numpy().tolist() == [[3, 4, 5, 0, 0], [6, 2, 0, 0, 0], [3, 2, 7, 0, 0]]


def test_long_sentences_continue_in_the_next_row(tmp_path):
    (tmp_path / "a.txt").write_text("a b c d e f\n")
    vocabulary = Vocabulary(["</S>", "<S>", "<UNK>", *"abcdef"])
    found = batches(tmp_path / "a.txt", vocabulary, batch_tokens=9, max_length=3)
    # 7 predictions, a b c d e f </S>, in rows of 3, 3 and 1.
    assert found == [
        (
            [[1, 3, 4], [5, 6, 7], [8, 0, 0]],
            [[3, 4, 5], [6, 7, 8], [0, 0, 0]],
        )
    ]


@pytest.mark.parametrize("words, rows", [(3, 1), (4, 2), (7, 2)])
def test_windows_around_the_largest_length(tmp_path, words, rows):
    (tmp_path / "a.txt").write_text("x " * words + "\n")
    vocabulary = Vocabulary(["</S>", "<S>", "<UNK>", "x"])
    found = batches(tmp_path / "a.txt", vocabulary, batch_tokens=4, max_length=4)
    # Four positions are one row: as many batches as rows, all full but the last.
    counts = [int(np.count_nonzero(inputs)) for inputs, _ in found]
    assert counts == [4] * (rows - 1) + [words + 1 - 4 * (rows - 1)]
    assert batches_per_pass({words: 1}, batch_tokens=4, max_length=4) == rows


def test_every_word_is_predicted_once(corpus, vocabulary):
    found = batches(corpus, vocabulary)
    assert predicted(found, vocabulary) == expected(corpus)
    for inputs, _ in found:
        assert len(inputs[0]) in bucket_boundaries(16)
        assert len(inputs) <= 64 // len(inputs[0])


def test_batches_per_pass_is_what_the_pipeline_makes(corpus, vocabulary):
    lengths = survey(corpus).lengths
    for sizes in (
        SIZES,
        {"batch_tokens": 4, "max_length": 10},
        {"batch_tokens": 5000, "max_length": 64},
    ):
        found = batches(corpus, vocabulary, lengths=lengths, **sizes)
        assert len(found) == batches_per_pass(lengths, **sizes)


def test_more_rows_than_are_batched_at_a_time(tmp_path):
    lines = random.Random(2)
    path = tmp_path / "many.txt"
    path.write_text("".join("x " * lines.randint(1, 12) + "\n" for _ in range(10_000)))
    vocabulary = Vocabulary(["</S>", "<S>", "<UNK>", "x"])
    sizes = {"batch_tokens": 20_000, "max_length": 12}
    found = batches(path, vocabulary, **sizes)
    assert predicted(found, vocabulary) == expected(path)
    assert len(found) == batches_per_pass(survey(path).lengths, **sizes)


def test_other_lengths_than_those_of_the_files(corpus, vocabulary):
    with pytest.raises(tf.errors.FailedPreconditionError):
        batches(corpus, vocabulary, lengths=survey(corpus[:1]).lengths)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_tokens": 0}, "batch_tokens must be at least 1, got 0"),
        ({"max_length": 0}, "max_length must be at least 1, got 0"),
    ],
)
def test_arguments_are_checked(corpus, vocabulary, options, message):
    with pytest.raises(ValueError, match=message):
        batches(corpus, vocabulary, **options)


def test_nothing_to_read_is_an_error(tmp_path, vocabulary):
    with pytest.raises(TextError, match=r"b.txt: no such file"):
        batches(tmp_path / "b.txt", vocabulary)
    with pytest.raises(ValueError, match="lengths is empty"):
        batches_per_pass({}, **SIZES)
