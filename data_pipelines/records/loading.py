"""Errors of the libraries that load data sets."""

import contextlib
import errno

from tfmoe.data_pipelines.reading import TextError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # of a disk that is full, or fails


@contextlib.contextmanager
def loading(name, keys):
    """Within it, what another library raises becomes a `TextError`; a full disk stays an `OSError`.

    Args:
        name: of the data set.
        keys: of the config that name it.
    """
    try:
        yield
    except TextError:
        raise
    except Exception as error:  # of the library, of its file formats and of the network
        _raise_if_disk_is_full(error)
        reason = _first_line(error)
        if error.__cause__ is not None:
            reason += f" ({_first_line(error.__cause__)})"
        raise TextError(f"{name} cannot be loaded ({keys}): {reason}") from error


def _first_line(error):
    return (str(error).strip() or type(error).__name__).split("\n")[0][:400]


def _raise_if_disk_is_full(error):
    """Raises the error's cause that says that a disk is full, if there is one."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            raise error
        error = error.__cause__ or error.__context__
