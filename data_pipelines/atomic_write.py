"""Files that are either complete or absent."""

import contextlib
import os
import pathlib


@contextlib.contextmanager
def atomic_write(path):
    """Opens a text file which appears under its name only when it is complete.

    The text goes to a temporary file in the same directory, which is renamed on leaving the block.
    If the block raises, the temporary file is removed and whatever had the name before is
    untouched. A link is followed.

    Args:
        path: where the file shall be. Missing parent directories are made.

    Raises:
        OSError: if it cannot be written; also if the name is that of something else than a file,
            such as `/dev/stdout`, which renaming would replace.

    Yields:
        A file open for writing UTF-8 text with `\\n` line ends.
    """
    with _renamed_when_complete(path, "w", encoding="utf-8", newline="\n") as file:
        yield file


def atomic_write_bytes(path, content):
    """Writes a file of bytes as `atomic_write` writes text: in full or not at all.

    Args:
        path: where the file shall be. Missing parent directories are made.
        content: the bytes.
    """
    with _renamed_when_complete(path, "wb") as file:
        file.write(content)


def check_writable(path):
    """Raises an OSError if a file of this name could not be replaced: to be called before long work
    whose result it is.
    """
    path = pathlib.Path(path)
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "not a regular file"
        raise OSError(f"{path} is {what}: give the name of a file")


@contextlib.contextmanager
def _renamed_when_complete(path, mode, **options):
    check_writable(path)
    path = pathlib.Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
