"""Packages that only some corpora need."""

import contextlib
import errno

from tfmoe.data_pipelines.reading import TextError

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def needing(package, extra):
    """Within it, a missing package becomes a `TextError` that says how to install it.

    Args:
        package: name of the module that is imported.
        extra: of tfmoe, which installs it.
    """
    try:
        yield
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise TextError(
            f"this text needs the package {package}, which is not installed: pip install"
            f' "tfmoe[{extra}]"'
        ) from error


@contextlib.contextmanager
def loading(name, key):
    """Within it, what another library raises becomes a `TextError`; a full disk stays an `OSError`.

    Args:
        name: of the data set.
        key: of the config that names it.
    """
    try:
        yield
    except TextError:
        raise
    except Exception as error:  # of the library, of its file formats and of the network
        _raise_if_disk_is_full(error)
        reason = str(error).strip() or type(error).__name__
        raise TextError(f"{name} ({key}) cannot be loaded: {reason[:600]}") from error


def _raise_if_disk_is_full(error):
    """Raises the error's cause that says that a disk is full, if there is one."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            raise error
        error = error.__cause__ or error.__context__
