"""Text files as lines: UTF-8, plain or gzip (`.gz`), read in Python and in TensorFlow alike.

- A line ends at `\\n`. Every `\\r` is dropped, so Windows line ends leave nothing behind.
- A byte order mark at the beginning of a line is dropped.
- A gzip file may have several members, empty ones too, as `cat a.gz b.gz` and `bgzip` make them.

A file is first read in Python (`read_lines`), which refuses what the two readers would treat
differently: bytes that are not UTF-8, and gzip files with other bytes behind their last member.
"""

import functools
import itertools
import os
import stat
import zlib

import tensorflow as tf

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BLOCK_BYTES = 1 << 17
# The shortest gzip member with content has 21 bytes. TensorFlow's reader takes an empty member for
# the end of the file if its buffer holds all that is left: with less than 21, nothing is left then.
GZIP_BUFFER_BYTES = 20
PLAIN_BUFFER_BYTES = 1 << 18


class TextError(ValueError):
    """Text that cannot be used. The message names the file, the line if known, and the cure."""


def is_gzip(path):
    """Whether a path names a gzip file."""
    return os.fspath(path).endswith(".gz")


def check_file(path):
    """Raises `TextError` if there is no regular file of this name."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise TextError(f"{path}: no such file (looked from {os.getcwd()})") from None
    except (OSError, ValueError) as error:
        raise TextError(f"{path!r} cannot be read: {_reason(error)}") from None
    if stat.S_ISDIR(mode):
        raise TextError(f"{path}: is a directory, not a file")
    if not stat.S_ISREG(mode):
        raise TextError(
            f"{path}: is a pipe or a device; text is read more than once: write it to a file"
        )


def read_bytes(path):
    """Yields the content of a file, unpacked if it is gzip, in non-empty parts.

    Raises:
        TextError: if it is no regular file, cannot be read, or is a damaged gzip file.
    """
    check_file(path)
    try:
        with open(path, "rb", buffering=0) as file:
            blocks = iter(functools.partial(file.read, BLOCK_BYTES), b"")
            yield from _unpacked(blocks, path) if is_gzip(path) else blocks
    except OSError as error:
        raise TextError(f"{path}: cannot be read: {_reason(error)}") from error


def read_lines(path):
    """Yields the lines of a file as bytes, blank ones too.

    Raises:
        TextError: as `read_bytes`; if a line is not UTF-8.
    """
    return itertools.chain.from_iterable(line_blocks(path))


def line_blocks(path):
    """Yields the lines of a file, as `read_lines`, in lists of many lines."""
    line_number, begun = 1, []
    for block in read_bytes(path):
        lines, end, rest = block.rpartition(b"\n")
        if end:
            text = b"".join([*begun, lines])
            yield _cleaned(text, path, line_number).split(b"\n")
            line_number, begun = line_number + text.count(b"\n") + 1, []
        if rest:
            begun.append(rest)
    if begun:
        yield [_cleaned(b"".join(begun), path, line_number)]


def line_dataset(file):
    """The TensorFlow counterpart of `read_lines`, without the checks. The caller applies
    `drop_byte_order_mark`, to many lines at a time.

    Args:
        file: path, a string or a string tensor `[]`.

    Returns:
        Dataset of lines, strings `[]`.
    """
    packed = tf.strings.regex_full_match(file, r"(?s).*\.gz")
    return tf.data.TextLineDataset(
        file,
        compression_type=tf.where(packed, "GZIP", ""),
        buffer_size=tf.where(packed, tf.constant(GZIP_BUFFER_BYTES, tf.int64), PLAIN_BUFFER_BYTES),
    )


def drop_byte_order_mark(lines):
    """Removes the byte order mark which some editors put before a text. `lines`: strings of any
    shape.
    """
    return tf.strings.regex_replace(lines, r"\A\x{FEFF}", "", replace_global=False)


def check_utf8(text, path, line_number=1):
    """Raises `TextError` if bytes are not UTF-8, with line and byte.

    Args:
        text: the bytes of whole lines.
        path: of the file, for the error.
        line_number: number of the first line.
    """
    try:
        text.isascii() or text.decode("utf-8")
    except UnicodeDecodeError as error:
        line = line_number + text.count(b"\n", 0, error.start)
        start = error.start - text.rfind(b"\n", 0, error.start)
        raise TextError(
            f"{path}:{line}:{start}: byte 0x{text[error.start]:02x} is not valid UTF-8"
            f" ({error.reason}); convert the file to UTF-8, for example with iconv"
        ) from None


def _cleaned(text, path, line_number):
    """Whole lines, checked, without carriage returns and byte order marks."""
    check_utf8(text, path, line_number)
    if b"\r" in text:
        text = text.replace(b"\r", b"")
    if BYTE_ORDER_MARK in text:
        text = (b"\n" + text).replace(b"\n" + BYTE_ORDER_MARK, b"\n")[1:]
    return text


def _unpacked(blocks, path):
    """Yields the content of a gzip file, of all its members. `blocks`: its bytes, in parts."""
    member, read, begin = None, 0, 0
    try:
        for block in blocks:
            read += len(block)
            while block:
                if member is None:
                    member, begin = zlib.decompressobj(zlib.MAX_WBITS + 16), read - len(block)
                if content := member.decompress(block):
                    yield content
                block = member.unused_data
                if member.eof:
                    member = None
    except zlib.error as error:
        reason = str(error).rpartition(": ")[2]
        if "header" not in reason:
            raise TextError(f"{path}: damaged gzip file: {reason}; pack it again") from None
        if not begin:
            raise TextError(f"{path}: is not the gzip file that its name says: {reason}") from None
        raise TextError(
            f"{path}: damaged gzip file: from byte {begin + 1:,} on it is not gzip ({reason}); "
            f"to keep the part before it: gzip -dc {path} | gzip > NEW.gz"
        ) from None
    if member is not None:
        raise TextError(f"{path}: damaged gzip file: it was cut off; pack or copy it again")


def _reason(error):
    return getattr(error, "strerror", None) or error
