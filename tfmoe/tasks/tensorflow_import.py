"""Imports TensorFlow without its log messages."""

import contextlib
import os
import sys
import tempfile
from types import ModuleType


def import_tensorflow() -> ModuleType:
    """Imports TensorFlow. Shows its messages on standard error only if the import fails.

    Its libraries print messages while they are loaded, past `sys.stderr` and whatever the log
    level, so the file descriptor is redirected meanwhile. Later messages of the C++ code are off
    unless the environment sets TF_CPP_MIN_LOG_LEVEL (0 for all messages).

    Returns:
        The module `tensorflow`.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _standard_error_buffered():
        import tensorflow
    return tensorflow


@contextlib.contextmanager
def _standard_error_buffered():
    """Redirects file descriptor 2 to a file, and writes the file to standard error only if the
    block raises.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as buffer:
        original = os.dup(2)
        os.dup2(buffer.fileno(), 2)
        try:
            yield
        except Exception:
            buffer.seek(0)
            os.write(original, buffer.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            os.close(original)
