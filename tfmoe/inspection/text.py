"""Text to inspect a model on: batches that know which lines they are of, and labels of lines.

Lines are numbered from 1 through all files, one after the other, blank lines included.
"""

import itertools
import os
from typing import Any, NamedTuple

import numpy as np

from tfmoe.data_pipelines import START, sentence_pairs
from tfmoe.data_pipelines.reading import read_lines
from tfmoe.data_pipelines.text import find_files, sentences


class NumberedBatch(NamedTuple):
    """A batch of rows of known lines.

    Attributes:
        inputs: what the model is called with: `[B, S]` int32 tokens, or for translation a pair
            `(source, target)` of such.
        lines: `[B]` int64, the number of each row's line.
        starts: `[B]` int64, the position in its line at which a row begins.
    """

    inputs: Any
    lines: np.ndarray
    starts: np.ndarray


def numbered_batches(files, vocabulary, *, batch_tokens=4096, max_length=64, sentences=None):
    """Reads text files as batches for a language model.

    A row is what it is in evaluation: `<S> w₁ … wₙ`, cut every `max_length` tokens.

    Args:
        files: a path or a list of them, in the order in which their lines are numbered.
        vocabulary: a `tfmoe.data_pipelines.Vocabulary`.
        batch_tokens: positions in a batch, padding included.
        max_length: largest S.
        sentences: read at most so many, evenly spread over the text; `None` for all.

    Returns:
        List of `NumberedBatch`, rows of similar length together.

    Raises:
        ValueError: if `sentences` is not positive, or there is no sentence.
        tfmoe.data_pipelines.TextError: if a file is missing or is not UTF-8.
    """
    rows = []
    for line, words in spread(lambda: _lines(files), sentences):
        tokens = [START, *vocabulary.encode([word.decode("utf-8") for word in words])]
        for start in range(0, len(tokens), max_length):
            rows.append((tokens[start : start + max_length], line, start))
    rows.sort(key=lambda row: len(row[0]))
    batches = []
    for some in _fitting(rows, batch_tokens, lambda row: len(row[0])):
        tokens, lines, starts = zip(*some, strict=True)
        batches.append(NumberedBatch(padded(tokens), np.array(lines), np.array(starts)))
    return batches


def numbered_pairs(files, subwords, *, batch_tokens=4096, sentences=None, empty="error"):
    """Reads parallel text as batches for a translation model, on the reference translations.

    Args:
        files: a `tfmoe.data_pipelines.ParallelFiles` or a list of them, numbered in their order.
        subwords: a `tfmoe.data_pipelines.Subwords`; of several languages, sources begin with their
            tag.
        batch_tokens: positions in a batch, source and target together, padding included.
        sentences: read at most so many pairs, evenly spread; `None` for all.
        empty: what to do with a pair that has a blank side: `"error"`, or `"skip"`; such pairs are
            then not numbered.

    Returns:
        List of `NumberedBatch`, their inputs `(source, target)`, pairs of similar length together.

    Raises:
        ValueError: if `sentences` is not positive, or there is no pair.
        tfmoe.data_pipelines.TextError: as `tfmoe.data_pipelines.sentence_pairs`.
    """
    files = files if isinstance(files, (list, tuple)) else [files]

    def pairs():
        tagged = (
            (tag_of(each, subwords), pair)
            for each in files
            for pair in sentence_pairs(each, empty=empty)
        )
        return enumerate(tagged, 1)

    rows = []
    for line, (tag, (source, target)) in spread(pairs, sentences):
        rows.append((tag + subwords.encode(source), [START, *subwords.encode(target)], line))
    rows.sort(key=lambda row: (len(row[0]), len(row[1])))
    batches = []
    for some in _fitting(rows, batch_tokens, lambda row: len(row[0]) + len(row[1])):
        source, target, lines = zip(*some, strict=True)
        inputs = padded(source), padded(target)
        batches.append(NumberedBatch(inputs, np.array(lines), np.zeros(len(lines), np.int64)))
    return batches


def tag_of(files, subwords):
    """What a source begins with: the symbol of its target language, nothing in a model of one
    direction.
    """
    return [subwords.language_id(files.target_language)] if subwords.languages else []


def spread(items, wanted):
    """Yields at most `wanted` of the items that the function `items` gives, evenly spread."""
    if wanted is not None and wanted < 1:
        raise ValueError(f"sentences must be at least 1, got {wanted}")
    total = sum(1 for _ in items())
    if not total:
        raise ValueError("there is no sentence to inspect")
    if wanted is None or wanted >= total:
        yield from items()
        return
    chosen = np.zeros(total, bool)
    chosen[np.arange(wanted) * total // wanted] = True
    yield from itertools.compress(items(), chosen)


def read_labels(label_files, files):
    """Reads labels of lines: line n of a file is the label of line n of its text.

    Args:
        label_files: list of paths, as many as `files`.
        files: list of paths of text, plain or gzip; of a translation, the sources.

    Returns:
        List of strings, `""` where there is none: `labels[n - 1]` is that of line n.

    Raises:
        ValueError: if the numbers of files or of lines differ.
        tfmoe.data_pipelines.TextError: if a file is missing, damaged or not UTF-8.
    """
    if len(label_files) != len(files):
        raise ValueError(
            f"labels must be as many files as the text: got {len(label_files)} for {len(files)} "
            f"({', '.join(map(str, files))})"
        )
    labels = []
    for label_file, file in zip(label_files, files, strict=True):
        own = [line.decode("utf-8").strip() for line in read_lines(label_file)]
        expected = count_lines(file)
        if len(own) != expected:
            raise ValueError(
                f"{label_file} has {len(own):,} lines, but {file} has {expected:,}: it must have "
                "one label a line, beside each line of the text"
            )
        labels += own
    return labels


def count_lines(file):
    """How many lines a file has, plain or gzip; a last one without an end counts."""
    return sum(1 for _ in read_lines(file))


def padded(rows):
    """Lists of ids to `[B, S]` int32, with 0 after their ends."""
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    return tokens


def _lines(files):
    """Yields `(number of the line, list of words as bytes)` of all files."""
    files = [files] if isinstance(files, (str, os.PathLike)) else list(files)
    before = 0
    for file in files:
        find_files(file)  # raises, if it is missing
        for number, words in sentences(file):
            yield before + number, words
        before += count_lines(file)


def _fitting(rows, most, size):
    """Cuts rows sorted by size into lists that, padded to their longest, have at most `most`
    positions.
    """
    some = []
    for row in rows:
        if some and (len(some) + 1) * size(row) > most:
            yield some
            some = []
        some.append(row)
    yield some
