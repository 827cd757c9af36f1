"""Text files: one sentence a line, UTF-8, plain or gzip.

How a file becomes words, in Python (`survey`, `sentences`) and in TensorFlow (`raw_lines`,
`sentence_batches`) alike:

- A line ends at `\\n`. Every `\\r` is dropped, so Windows line ends leave nothing behind.
- A byte order mark at the beginning of a line is dropped.
- Words are separated by runs of ASCII white space: space, tab, vertical tab, form feed. All other
  characters belong to words, Unicode spaces (no-break space, ideographic space…) included: a
  tokenizer that wrote one meant it to be inside a word.
- A line without words is skipped.
"""

import collections
import contextlib
import dataclasses
import glob
import gzip
import os
import zlib

import tensorflow as tf

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class TextError(ValueError):
    """Text that cannot be used. The message names the file, where known the line, and what would be
    right.
    """


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
        if os.path.exists(path):
            found.add(path)
            continue
        matches = [match for match in glob.glob(path, recursive=True) if os.path.isfile(match)]
        if not matches:
            kind = "no file matches this glob" if glob.has_magic(path) else "no such file"
            raise TextError(f"{path}: {kind} (looked from {os.getcwd()})")
        found.update(matches)
    return sorted(found)


def raw_lines(file):
    """Lines of one file (a string tensor `[]`), blank ones and byte order marks included."""
    packed = tf.strings.regex_full_match(file, r"(?s).*\.gz")
    return tf.data.TextLineDataset(file, compression_type=tf.where(packed, "GZIP", ""))


def drop_byte_order_mark(lines):
    """Removes the byte order mark which some editors put before a text. `lines`: strings of any
    shape.
    """
    return tf.strings.regex_replace(lines, r"\A\x{FEFF}", "", replace_global=False)


def sentences(file):
    """Yields `(line number from 1, list of words as bytes)` for every sentence of a file.

    Raises:
        TextError: on invalid UTF-8 or a damaged gzip file.
    """
    number = 0
    with open_text(file, lambda: f":{number + 1}") as lines:
        for number, line in enumerate(lines, 1):
            line = checked_utf8(line, file, number)
            words = line.replace(b"\r", b"").split() if b"\r" in line else line.split()
            if words:
                yield number, words


@contextlib.contextmanager
def open_text(path, position=str):
    """Opens a file, plain or gzip, for reading bytes.

    Args:
        path: its path.
        position: function that says where the reading is, such as `":7"`, for the error.

    Raises:
        TextError: if the file is missing, or is a damaged gzip file.
    """
    opener = gzip.open if os.fspath(path).endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            yield file
    except FileNotFoundError:
        raise TextError(f"{path}: no such file") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise TextError(f"{path}{position()}: damaged gzip file: {error}") from error


def checked_utf8(text, path, number=None):
    """Returns bytes without byte order mark, if they are UTF-8.

    Args:
        text: the bytes of a line, or of a whole file.
        path: of the file, for the error.
        number: of the line; `None` for a whole file.

    Raises:
        TextError: if they are not UTF-8, with line and byte.
    """
    if text.isascii():
        return text
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        line, start = number, error.start
        if number is None:
            line = text.count(b"\n", 0, start) + 1
            start -= text.rfind(b"\n", 0, start) + 1
        raise TextError(
            f"{path}:{line}:{start + 1}: byte 0x{text[error.start]:02x} is not valid UTF-8"
            f" ({error.reason}); convert the file to UTF-8, for example with iconv"
        ) from None
    return text.removeprefix(BYTE_ORDER_MARK)


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
