"""Locks on files, which the kernel releases when their process ends in any way.

The lock is `flock`; on Windows, a locked byte of the file.
"""

import contextlib
import errno
import os
import pathlib
import sys
import time

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
LOCKED_BYTE = 1 << 30  # on Windows: behind the content, since locked bytes cannot be read
SECONDS_BETWEEN_TRIES = 0.2


@contextlib.contextmanager
def waiting_for_lock(path, announcement):
    """Context manager that holds the lock of a file, and waits for it if another process does.

    On a file system without locks it does not wait.

    Args:
        path: of the file, in an existing folder. It is created, and stays.
        announcement: line to print before waiting.
    """
    with open(pathlib.Path(path), "a") as file:
        announced = False
        while True:
            try:
                lock(file)
                break
            except BlockingIOError:
                if not announced:
                    print(announcement, flush=True)
                announced = True
                time.sleep(SECONDS_BETWEEN_TRIES)
            except OSError as error:
                if error.errno not in WITHOUT_LOCKS:
                    raise
                break
        yield


def lock(file):
    """Locks an open file until it is closed.

    Raises:
        BlockingIOError: if it is already locked.
        OSError: if the file system has no locks.
    """
    if sys.platform == "win32":
        os.lseek(file.fileno(), LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(*error.args) from None
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_there(path, file):
    """Whether a path still refers to an open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
