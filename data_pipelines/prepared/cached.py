"""The folder of prepared text: what is kept of text so that it is read once.

Everything in it is complete or absent, is found by the content that it was made of, and can be
removed when no run uses it. Descriptions are JSON with their own checksum.
"""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import time
import zlib

from tfmoe.data_pipelines.atomic_write import atomic_write, temporary_name
from tfmoe.data_pipelines.changes import check_unchanged, stamps
from tfmoe.data_pipelines.file_locks import waiting_for_lock
from tfmoe.data_pipelines.reading import BLOCK_BYTES, TextError, check_file

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LOCK = ".lock"
SECONDS_BETWEEN_REPORTS = 10


def key_of(value):
    """Digest of a JSON value, 20 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:20]


def content_of(path, folder, progress=None):
    """Returns the SHA-256 of a file's bytes, in hexadecimal.

    The file is read once: the digest is kept with the file's size and time of its last change. One
    process reads it; others wait.

    Args:
        path: of the file.
        folder: the folder of prepared text.
        progress: a `Progress`, to count the bytes read; or `None`.

    Raises:
        TextError: if it is no regular file, or changes while it is read.
    """
    check_file(path)
    path = os.path.realpath(path)
    records, key = pathlib.Path(folder) / "files", key_of(path)
    known = stamps([path])
    content = _known_content(records / f"{key}.json", path, known[path])
    if content is None:
        with one_writer(records, key, f"read {path}"):
            content = _known_content(records / f"{key}.json", path, known[path])
            if content is None:
                content = _read_content(path, progress)
                check_unchanged(known)
                description = {"path": path, "stamp": known[path], "sha256": content}
                write_description(records / f"{key}.json", description)
    return content


def _known_content(record, path, stamp):
    """The SHA-256 that a file of `content_of` has for a path and its stamp; or `None`."""
    description = read_description(record, damaged=dict)
    if description.get("path") == path and description.get("stamp") == list(stamp or ()):
        return description["sha256"]
    return None


def _read_content(path, progress):
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(8 * BLOCK_BYTES):
            digest.update(block)
            if progress:
                progress.add(len(block))
    return digest.hexdigest()


def contents_of(paths, folder):
    """`content_of` of a list of files, with progress."""
    sizes = sum(os.path.getsize(path) for path in paths if os.path.exists(path))
    progress = Progress("checking the text's content", sizes, "bytes")
    return [content_of(path, folder, progress) for path in paths]


def write_description(path, value):
    """Writes a JSON value with its checksum; in full or not at all."""
    text = json.dumps(value)
    with hint_if_full(path), atomic_write(path) as file:
        file.write(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}\n")


def read_description(path, damaged=None):
    """Reads what `write_description` wrote. Returns `{}` if there is no such file.

    Args:
        path: of the file.
        damaged: function that makes the result for a damaged file; `None` for an error.

    Raises:
        TextError: if the checksum is wrong.
    """
    try:
        checksum, text = pathlib.Path(path).read_bytes().rstrip(b"\n").split(b"\n")
    except FileNotFoundError:
        return {}
    except ValueError:
        checksum, text = b"", b""
    if checksum.decode("ascii", "replace") == hashlib.sha256(text).hexdigest():
        return json.loads(text)
    if damaged:
        return damaged()
    raise damage(path, "its checksum is wrong")


def checksum_of(path):
    """CRC-32 of a file's bytes."""
    checksum = 0
    with open(path, "rb", buffering=0) as file:
        while block := file.read(8 * BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
    return checksum


def check_checksum(path, checksum):
    """Raises a `TextError` if a file of prepared text has another CRC-32."""
    if checksum_of(path) != checksum:
        raise damage(path, "its checksum is wrong")


def damage(path, problem):
    """The `TextError` of a damaged file of prepared text."""
    path = pathlib.Path(path)
    return TextError(
        f"{path}: the prepared text is damaged: {problem}; remove the folder {path.parent} and "
        "start again: the text is then prepared anew"
    )


@contextlib.contextmanager
def one_writer(folder, name="", work=None):
    """Makes a folder, and holds a lock in it: only one process does a work, and others wait.

    Args:
        folder: a `pathlib.Path`.
        name: of the lock, `NAME.lock`.
        work: what the others wait for, such as "train subwords"; `None`: to prepare the folder.
    """
    with hint_if_full(folder):
        folder.mkdir(parents=True, exist_ok=True)
    work = work or f"prepare {folder}"
    with waiting_for_lock(folder / f"{name}{LOCK}", f"waiting for another process to {work}"):
        yield


@contextlib.contextmanager
def hint_if_full(path):
    """An `OSError` in the block names a file, and says what to do if the disk is full.

    Args:
        path: the name for an error that has none.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error = OSError(error.errno, error.strerror, str(path))
        if error.errno in FULL and not getattr(error, "__notes__", None):
            error.add_note("set TFMOE_CACHE to a folder on a disk with room for prepared text")
        raise error from None


class NewFile:
    """A binary file that gets its name when it is complete.

    Args:
        path: of the file, a `pathlib.Path` in an existing folder.

    Attributes:
        size: number of bytes written.
        checksum: CRC-32 of the bytes.
    """

    def __init__(self, path):
        self.path, self.size, self.checksum = path, 0, 0
        self._temporary = temporary_name(path)
        with hint_if_full(path):
            self._file = open(self._temporary, "wb")  # noqa: SIM115

    def write(self, array):
        """Appends the bytes of an array."""
        content = memoryview(array).cast("B")
        with hint_if_full(self.path):
            self._file.write(content)
        self.size += len(content)
        self.checksum = zlib.crc32(content, self.checksum)

    def write_at(self, begin, array):
        """Writes the bytes of an array from byte `begin` on, which the checksum leaves out."""
        with hint_if_full(self.path):
            self._file.seek(begin)
            self._file.write(memoryview(array).cast("B"))
        self.size = max(self.size, begin + array.nbytes)

    def finish(self):
        """Gives the file its name."""
        with hint_if_full(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._temporary, self.path)

    def discard(self):
        """Removes a file that is not finished."""
        with contextlib.suppress(OSError):  # the disk may be full
            self._file.close()
        self._temporary.unlink(missing_ok=True)


class Progress:
    """Prints the progress of long work, at most every 10 seconds.

    Args:
        title: of the work.
        total: the units of all work.
        unit: `"bytes"` or another name.
    """

    def __init__(self, title, total, unit):
        self.title, self.total, self.unit, self.done = title, total, unit, 0
        self._begin = self._reported = time.monotonic()
        self._skipped = 0

    def skip(self, units):
        """Counts work that was done before."""
        self.done += units
        self._skipped += units

    def add(self, units):
        """Counts work that is done."""
        self.done += units
        now = time.monotonic()
        if now - self._reported < SECONDS_BETWEEN_REPORTS or not self.total:
            return
        self._reported = now
        seconds = (now - self._begin) / (self.done - self._skipped)  # for a unit
        left = round(seconds * max(0, self.total - self.done))
        print(
            f"{self.title}: {min(1, self.done / self.total):.0%} of {self.total:,} {self.unit}, "
            f"about {left // 60}:{left % 60:02} left",
            flush=True,
        )
