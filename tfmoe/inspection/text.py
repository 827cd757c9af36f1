"""Text for inspecting a model: batches with line numbers, and labels of lines.

Lines are numbered from 1, consecutively through all files, blank lines included.
"""

import itertools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tfmoe.data_pipelines import START, ParallelFiles, Subwords, Vocabulary, sentence_pairs
from tfmoe.data_pipelines.reading import read_lines
from tfmoe.data_pipelines.text import find_files, sentences


class NumberedBatch(NamedTuple):
    """A batch with the line number of each row.

    Attributes:
        inputs: the model's inputs: `[B, S]` int32 tokens, or a pair `(source, target)` of such
            arrays for translation.
        lines: `[B]` int64, line number of each row.
        starts: `[B]` int64, position of the row's first token in its line.
    """

    inputs: Any
    lines: np.ndarray
    starts: np.ndarray


def numbered_batches(
    files: str | os.PathLike | Sequence[str | os.PathLike],
    vocabulary: Vocabulary,
    *,
    batch_tokens: int = 4096,
    max_length: int = 64,
    sentences: int | None = None,
) -> list[NumberedBatch]:
    """Reads text files into batches for a language model.

    Rows are the same as in evaluation: `<S> w₁ … wₙ`, split after every `max_length` tokens.

    Args:
        files: a path, or a list of paths in the order of their line numbers.
        vocabulary: a `tfmoe.data_pipelines.Vocabulary`.
        batch_tokens: maximum positions per batch, padding included.
        max_length: maximum S.
        sentences: maximum number of sentences, sampled evenly from the text; `None` for all.

    Returns:
        Batches with rows of similar length.

    Raises:
        ValueError: if `sentences` is not positive, or there is no sentence.
        tfmoe.data_pipelines.TextError: if a file is missing or is not UTF-8.
    """
    rows = []
    for line, words in sample_evenly(lambda: _lines(files), sentences):
        tokens = [START, *vocabulary.encode([word.decode("utf-8") for word in words])]
        for start in range(0, len(tokens), max_length):
            rows.append((tokens[start : start + max_length], line, start))
    rows.sort(key=lambda row: len(row[0]))
    batches = []
    for batch_rows in _batches(rows, batch_tokens, lambda row: len(row[0])):
        ids, lines, starts = zip(*batch_rows, strict=True)
        batches.append(NumberedBatch(padded(ids), np.array(lines), np.array(starts)))
    return batches


def numbered_pairs(
    files: ParallelFiles | Sequence[ParallelFiles],
    subwords: Subwords,
    *,
    batch_tokens: int = 4096,
    sentences: int | None = None,
    empty: str = "error",
) -> list[NumberedBatch]:
    """Reads parallel text into batches for a translation model, with reference translations.

    Args:
        files: a `tfmoe.data_pipelines.ParallelFiles`, or a list of them in the order of their line
            numbers.
        subwords: a `tfmoe.data_pipelines.Subwords`. If it has several languages, each source starts
            with the symbol of its target language.
        batch_tokens: maximum positions per batch, source and target together, padding included.
        sentences: maximum number of pairs, sampled evenly from the text; `None` for all.
        empty: `"error"` to raise an error for a pair with a blank side, `"skip"` to skip it without
            a line number.

    Returns:
        Batches with pairs of similar length and inputs `(source, target)`.

    Raises:
        ValueError: if `sentences` is not positive, or there is no pair.
        tfmoe.data_pipelines.TextError: if a file is missing or damaged, or the files do not match,
            see `tfmoe.data_pipelines.sentence_pairs`.
    """
    files = [files] if isinstance(files, ParallelFiles) else list(files)

    def pairs():
        tagged = (
            (language_tag(parallel, subwords), pair)
            for parallel in files
            for pair in sentence_pairs(parallel, empty=empty)
        )
        return enumerate(tagged, 1)

    rows = []
    for line, (tag, (source, target)) in sample_evenly(pairs, sentences):
        rows.append((tag + subwords.encode(source), [START, *subwords.encode(target)], line))
    rows.sort(key=lambda row: (len(row[0]), len(row[1])))
    batches = []
    for batch_rows in _batches(rows, batch_tokens, lambda row: len(row[0]) + len(row[1])):
        source, target, lines = zip(*batch_rows, strict=True)
        inputs = padded(source), padded(target)
        batches.append(NumberedBatch(inputs, np.array(lines), np.zeros(len(lines), np.int64)))
    return batches


def language_tag(files, subwords):
    """The ids before a source: the symbol of its target language, or none in a model with one
    direction.
    """
    return [subwords.language_id(files.target_language)] if subwords.languages else []


def sample_evenly(items, count):
    """Yields items at even distances.

    Args:
        items: function that returns an iterator of all items.
        count: maximum number of items; `None` for all.

    Raises:
        ValueError: if `count` is below 1, or there are no items.
    """
    if count is not None and count < 1:
        raise ValueError(f"sentences must be at least 1, got {count}")
    total = sum(1 for _ in items())
    if not total:
        raise ValueError("there is no sentence to inspect")
    if count is None or count >= total:
        yield from items()
        return
    selected = np.zeros(total, bool)
    selected[np.arange(count) * total // count] = True
    yield from itertools.compress(items(), selected)


def read_labels(
    label_files: Sequence[str | os.PathLike], files: Sequence[str | os.PathLike]
) -> list[str]:
    """Reads labels of lines: line n of a label file is the label of line n of its text file.

    Args:
        label_files: list of paths, one for each of `files`.
        files: list of paths of text files, plain or gzip; for a translation, the source files.

    Returns:
        `labels[n - 1]` is the label of line n, `""` for no label.

    Raises:
        ValueError: if the numbers of files or lines differ.
        tfmoe.data_pipelines.TextError: if a file is missing, damaged or not UTF-8.
    """
    if len(label_files) != len(files):
        raise ValueError(
            f"labels must have one file for each text file: got {len(label_files)} for "
            f"{len(files)} ({', '.join(map(str, files))})"
        )
    labels = []
    for label_file, file in zip(label_files, files, strict=True):
        file_labels = [line.decode("utf-8").strip() for line in read_lines(label_file)]
        expected = count_lines(file)
        if len(file_labels) != expected:
            raise ValueError(
                f"{label_file} has {len(file_labels):,} lines, but {file} has {expected:,}: it "
                "must have one label for each line of the text"
            )
        labels += file_labels
    return labels


def count_lines(file: str | os.PathLike) -> int:
    """Counts the lines of a file; a last line without a line break counts.

    Args:
        file: path of a plain or gzip file.
    """
    return sum(1 for _ in read_lines(file))


def padded(rows):
    """Converts lists of ids to `[B, S]` int32, padded with 0."""
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    return tokens


def _lines(files):
    """Yields `(line number, list of words as bytes)` of all files."""
    files = [files] if isinstance(files, (str, os.PathLike)) else list(files)
    offset = 0
    for file in files:
        find_files(file)  # raises an error if the file is missing
        for line_number, words in sentences(file):
            yield offset + line_number, words
        offset += count_lines(file)


def _batches(rows, max_positions, size):
    """Splits rows into lists of at most `max_positions` positions, padding included.

    Args:
        rows: list of rows in ascending order of size.
        max_positions: maximum positions, unless a single row is larger.
        size: function of a row that returns its number of positions.
    """
    batch = []
    for row in rows:
        if batch and (len(batch) + 1) * size(row) > max_positions:
            yield batch
            batch = []
        batch.append(row)
    yield batch
