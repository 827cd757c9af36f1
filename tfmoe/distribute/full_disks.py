"""Converts TensorFlow's errors for files that cannot be written to an `OSError` with the filename.

TensorFlow 2.21 reports a full disk as exhausted memory (`ResourceExhaustedError`), and a limit on
file sizes as `OutOfRangeError`. Its messages have a line `PATH; No space left on device`, with the
text of the C library.
"""

import contextlib
import errno
import os
import re

import tensorflow as tf

# No space, quota exceeded, file too large, I/O error.
ERROR_CODES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
FUNCTION = re.compile(r"^\{\{function_node \S*\}\} ")


@contextlib.contextmanager
def full_disk_named(path):
    """Converts errors of a full disk to an `OSError` with the filename.

    Args:
        path: the file or folder that the block writes; the filename if an error has none.

    Raises:
        OSError: the block raised an error with one of `ERROR_CODES`; it has `errno` and `filename`.
            All other errors are raised unchanged.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in ERROR_CODES or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    except tf.errors.OpError as error:
        code, file = parse_message(error.message)
        if code is None:
            raise
        raise OSError(code, os.strerror(code), file or str(path)) from error


def parse_message(message):
    """Returns the error code and the filename in a message of TensorFlow; `(None, None)` if the
    message is not about a full disk.
    """
    for line in message.splitlines():
        for code in ERROR_CODES:
            file, separator, _ = line.partition(f"; {os.strerror(code)}")
            if separator:
                return code, FUNCTION.sub("", file)
    return None, None
