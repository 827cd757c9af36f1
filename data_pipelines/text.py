"""Sentences of text files: one a line.

How a line is split into words, both in Python (`sentences`) and in TensorFlow (`sentence_batches`):

- Words are separated by runs of ASCII white space: space, tab, vertical tab, form feed. All other
  characters belong to words, Unicode spaces (no-break space, ideographic space…) included: a
  tokenizer that wrote one meant it to be inside a word.
- A line without words is skipped.

`reading` defines a line.
"""

import collections
import dataclasses
import glob
import itertools
import os
from collections.abc import Iterator, Sequence

from tfmoe.data_pipelines.reading import TextError, check_file, line_blocks, read_lines

Paths = str | os.PathLike | Sequence[str | os.PathLike]  # a path or glob, or a list of them


@dataclasses.dataclass(frozen=True)
class Survey:
    """Statistics of a corpus.

    Args:
        sentences: number of sentences: lines with at least one word.
        tokens: number of words, without boundaries. A language model predicts `tokens + sentences`.
        words: `Counter` from words, as strings, to how often they occur.
        lengths: `Counter` from words in a sentence, without boundaries, to sentences.
    """

    sentences: int
    tokens: int
    words: collections.Counter[str]
    lengths: collections.Counter[int]


def find_files(patterns: Paths) -> list[str]:
    """Returns the files that paths or globs name, sorted, without repetitions.

    Args:
        patterns: a path or glob (`*`, `?`, `[…]`, `**`), or a list of them. `~` is the home
            directory.

    Returns:
        List of paths, as strings.

    Raises:
        TextError: if a path does not exist or is a directory, a glob matches no file, or the list
            is empty.
    """
    if isinstance(patterns, (str, os.PathLike)):
        patterns = [patterns]
    if not patterns:
        raise TextError("no text file given: give at least one path or glob")
    files = set()
    for pattern in patterns:
        path = os.path.expanduser(os.fspath(pattern))
        if os.path.isdir(path):
            raise TextError(
                f"{path}: is a directory; name its files, for example {os.path.join(path, '*.txt')}"
            )
        if os.path.lexists(path):
            check_file(path)
            files.add(path)
            continue
        matches = [match for match in glob.glob(path, recursive=True) if os.path.isfile(match)]
        if not matches:
            kind = "no file matches this glob" if glob.has_magic(path) else "no such file"
            raise TextError(f"{path}: {kind} (looked from {os.getcwd()})")
        files.update(matches)
    return sorted(files)


def sentences(file: str) -> Iterator[tuple[int, list[bytes]]]:
    """Yields `(line number from 1, list of words as bytes)` for every sentence of a file.

    Raises:
        TextError: as `reading.read_lines`.
    """
    for line_number, line in enumerate(read_lines(file), 1):
        if words := line.split():
            yield line_number, words


def survey(files: Paths) -> Survey:
    """Reads a corpus once, checks it and counts its words.

    Args:
        files: a path or glob or a list of them.

    Returns:
        A `Survey`.

    Raises:
        TextError: if a file is missing, is empty, has no word, or is not UTF-8 (with file, line and
            byte).
    """
    words: collections.Counter[bytes] = collections.Counter()
    lengths: collections.Counter[int] = collections.Counter()
    for file in find_files(files):
        before = lengths.total()
        for lines in line_blocks(file):
            block = [line.split() for line in lines]
            words.update(itertools.chain.from_iterable(block))
            lengths.update(filter(None, map(len, block)))
        if lengths.total() == before:
            raise without_words(file)
    decoded = collections.Counter({word.decode("utf-8"): count for word, count in words.items()})
    return Survey(lengths.total(), words.total(), decoded, lengths)


def without_words(file):
    """The `TextError` of a file without words."""
    state = "has only blank lines" if os.path.getsize(file) else "is empty"
    return TextError(f"{file}: the file {state}; it must hold one sentence a line")
