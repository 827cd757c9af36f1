"""TensorFlow without its chatter."""

import contextlib
import os
import sys
import tempfile


def import_tensorflow():
    """Imports TensorFlow, showing what it writes to standard error only if the import fails.

    What its libraries print while they are loaded bypasses `sys.stderr` and heeds no log level, so
    the process's standard error itself leads elsewhere meanwhile. Later messages of the C++ side
    are off, unless the environment sets TF_CPP_MIN_LOG_LEVEL (0 for all).

    Returns:
        The module `tensorflow`.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _standard_error_held():
        import tensorflow
    return tensorflow


@contextlib.contextmanager
def _standard_error_held():
    """Keeps what is written to file descriptor 2 in a file, and shows it only if the block
    raises.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        original = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:
            held.seek(0)
            os.write(original, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            os.close(original)
