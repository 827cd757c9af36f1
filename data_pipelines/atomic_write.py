"""Files that are either complete or absent."""

import contextlib
import os
import pathlib


@contextlib.contextmanager
def atomic_write(path):
    """Opens a text file which appears under its name only when it is complete.

    The text goes to a temporary file in the same directory, which is renamed on leaving the block.
    If the block raises, the temporary file is removed and whatever had the name before is
    untouched.

    Args:
        path: where the file shall be. Missing parent directories are made.

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


@contextlib.contextmanager
def _renamed_when_complete(path, mode, **options):
    path = pathlib.Path(path)
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
