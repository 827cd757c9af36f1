"""The state of a file, which shows whether it changed, and short names of files."""

import os
import pathlib
import re

from tfmoe.data_pipelines.reading import check_file


def file_state(path):
    """Returns `[size, time of the last change in ns]` of a file.

    Raises:
        TextError: if there is no such file.
    """
    check_file(path)
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


def title_of(name):
    """Returns a short name that can be part of a file's name; for a path, the file's name without
    extension.
    """
    stem = pathlib.PurePath(name).name.removesuffix(".gz")
    stem = stem.rpartition(".")[0] or stem
    return re.sub(r"[^\w.+-]+", "_", stem)[:80].strip("._") or "text"
