"""Errors of the libraries that load data sets."""

import contextlib
import errno

from tfmoe.data_pipelines.reading import TextError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # the disk is full or fails


@contextlib.contextmanager
def loading(name, keys):
    """Converts the exceptions of another library to `TextError`, except `OSError` for a full disk.

    Args:
        name: name of the data set.
        keys: config keys that specify it.
    """
    try:
        yield
    except TextError:
        raise
    except Exception as error:  # any of the library, its file formats or the network
        _raise_if_disk_is_full(error)
        reason = _first_line(error)
        if error.__cause__ is not None:
            reason += f" ({_first_line(error.__cause__)})"
        raise TextError(f"{name} cannot be loaded ({keys}): {reason}") from error


def _first_line(error):
    return (str(error).strip() or type(error).__name__).split("\n")[0][:400]


def _raise_if_disk_is_full(error):
    """Raises the cause of an error if it is a full disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            raise error
        error = error.__cause__ or error.__context__
