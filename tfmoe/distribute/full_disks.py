"""What TensorFlow says when a file cannot be written, as Python says it: an `OSError` with the
file's name.

TensorFlow 2.21 tells of a full disk as of exhausted memory (`ResourceExhaustedError`), of a limit
on the size of files as `OutOfRangeError`. Its messages have a line `PATH; No space left on device`,
with words of the C library.
"""

import contextlib
import errno
import os
import re

import tensorflow as tf

# No space, no quota, a file larger than may be, a device that fails.
NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
FUNCTION = re.compile(r"^\{\{function_node \S*\}\} ")


@contextlib.contextmanager
def full_disk_named(path):
    """Turns errors of a full disk into an `OSError` that has the name of the file.

    Args:
        path: what is written in the block; the name where an error has none.

    Raises:
        OSError: for an error of `NUMBERS`, with `errno` and `filename`. All other errors pass.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NUMBERS or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    except tf.errors.OpError as error:
        number, file = what_is_full(error.message)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), file or str(path)) from error


def what_is_full(message):
    """The number of a full disk's error in a message of TensorFlow and the name of the file;
    `(None, None)` in any other message.
    """
    for line in message.splitlines():
        for number in NUMBERS:
            file, found, _ = line.partition(f"; {os.strerror(number)}")
            if found:
                return number, FUNCTION.sub("", file)
    return None, None
