"""Files that change while they are used or read."""

import contextlib
import os

import tensorflow as tf

from tfmoe.data_pipelines.reading import TextError


def stamps(paths):
    """Returns `{path: (size, time of the last change)}`, or `None` for a missing file."""
    return {path: stamp_of(path) for path in paths}


def check_unchanged(known):
    """Raises a `TextError` that names a file which changed after its stamp was taken.

    Args:
        known: `stamps` of the files, from before they were read.
    """
    for path, stamp in known.items():
        if stamp_of(path) != stamp:
            raise TextError(f"{path}: the file changed while it was read; begin again")


@contextlib.contextmanager
def unchanged(known):
    """Within it, an error of TensorFlow after a file changed becomes a `TextError` that names it.

    Args:
        known: `stamps` of the files, from before they were first read.
    """
    try:
        yield
    except tf.errors.OpError as error:
        for path, stamp in known.items():
            now = stamp_of(path)
            if now != stamp:
                what = "changed" if now else "was removed"
                raise TextError(
                    f"{path}: the file {what} while it was used; restore it, then resume or "
                    "begin again"
                ) from error
        raise


def stamp_of(path):
    """`(size, time of the last change)` of a file, or `None` if it is missing."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
