"""Sentences of text files: one a line.

How a line becomes words, in Python (`sentences`) and in TensorFlow (`sentence_batches`) alike:

- Words are separated by runs of ASCII white space: space, tab, vertical tab, form feed. All other
  characters belong to words, Unicode spaces (no-break space, ideographic space…) included: a
  tokenizer that wrote one meant it to be inside a word.
- A line without words is skipped.

What a line is, is said in `reading`.
"""

import collections
import dataclasses
import glob
import os

from tfmoe.data_pipelines.reading import TextError, check_file, read_lines


@dataclasses.dataclass(frozen=True)
class Survey:
    """What one reading of a corpus found.

    Args:
        sentences: number of sentences (lines with at least one word).
        tokens: number of words, without boundaries. A language model predicts `tokens + sentences`.
        words: `Counter` of the words, as strings.
        lengths: `Counter` of sentence lengths in words, without boundaries.
    """

    sentences: int
    tokens: int
    words: collections.Counter
    lengths: collections.Counter


def find_files(patterns):
    """Returns the files that paths or globs name, sorted, each once.

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
        raise TextError("no text file was named: give at least one path or glob")
    found = set()
    for pattern in patterns:
        path = os.path.expanduser(os.fspath(pattern))
        if os.path.isdir(path):
            raise TextError(
                f"{path}: is a directory; name its files, for example {os.path.join(path, '*.txt')}"
            )
        if os.path.lexists(path):
            check_file(path)
            found.add(path)
            continue
        matches = [match for match in glob.glob(path, recursive=True) if os.path.isfile(match)]
        if not matches:
            kind = "no file matches this glob" if glob.has_magic(path) else "no such file"
            raise TextError(f"{path}: {kind} (looked from {os.getcwd()})")
        found.update(matches)
    return sorted(found)


def sentences(file):
    """Yields `(line number from 1, list of words as bytes)` for every sentence of a file.

    Raises:
        TextError: as `reading.read_lines`.
    """
    for number, line in enumerate(read_lines(file), 1):
        if words := line.split():
            yield number, words


def survey(files):
    """Reads a corpus once, from beginning to end, checks it and counts its words.

    Args:
        files: a path or glob or a list of them.

    Returns:
        A `Survey`.

    Raises:
        TextError: if a file is missing, is empty, has no word, or is not UTF-8 (with file, line and
            byte).
    """
    words, lengths = collections.Counter(), collections.Counter()
    for file in find_files(files):
        before = lengths.total()
        for _, sentence in sentences(file):
            words.update(sentence)
            lengths[len(sentence)] += 1
        if lengths.total() == before:
            state = "has only blank lines" if os.path.getsize(file) else "is empty"
            raise TextError(f"{file}: the file {state}; it must hold one sentence a line")
    decoded = collections.Counter({word.decode("utf-8"): count for word, count in words.items()})
    return Survey(lengths.total(), words.total(), decoded, lengths)
