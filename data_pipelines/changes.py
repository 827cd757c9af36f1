"""Files that change while they are used: detected when reading them fails."""

import contextlib
import os

import tensorflow as tf

from tfmoe.data_pipelines.reading import TextError


def stamps(paths):
    """Returns `{path: (size, time of the last change)}`, or `None` for a missing file."""
    return {path: _stamp(path) for path in paths}


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
            now = _stamp(path)
            if now != stamp:
                what = "changed" if now else "was removed"
                raise TextError(
                    f"{path}: the file {what} while it was used; restore it, then resume or "
                    "begin again"
                ) from error
        raise


def _stamp(path):
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
