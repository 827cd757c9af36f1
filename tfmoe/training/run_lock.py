"""One training at a time in a run's folder.

The lock is `flock` on a file of the folder; on Windows, a locked byte of that file. The kernel
frees it when its process ends, however that ends: after `kill -9`, or of a container, a resumed run
begins at once, and no process number can be mistaken for a later process's. On NFS (Linux) and on
the shared file systems of clusters that have locks it holds among hosts as well.

The alternatives are worse here. A file that names its owner outlives a kill, of another host nobody
can tell whether the owner is alive, and on a new host (a container that is started again) every
resumed run would need a hand. POSIX locks (`lockf`) do not hold within a process, and are lost when
any part of it closes the file. The library filelock is the same `flock`, without the owner's name.
Where the file system has no locks, training continues without one, and says so.

What is written in the file says who holds the lock, to those who are refused.
"""

import contextlib
import errno
import json
import os
import pathlib
import socket
import sys
import time

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

FILE = ".lock"
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
LOCKED_BYTE = 1 << 30  # on Windows: far behind the owner's name, as what is locked cannot be read


@contextlib.contextmanager
def only_one_training(folder):
    """Holds the lock of a run's folder in the block. The folder is made; if the block leaves
    nothing in it, it goes again.

    Args:
        folder: the run's folder.

    Raises:
        BlockingIOError: if another process trains there; it says which.
        OSError: if the folder cannot be written.
    """
    folder = pathlib.Path(folder)
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    try:
        with locked(path) as file:
            try:
                write_owner(file)
                yield
            finally:
                if sys.platform != "win32":
                    path.unlink(missing_ok=True)  # before the lock is free: see `locked`
    finally:
        if sys.platform == "win32":
            with contextlib.suppress(PermissionError):  # of a file that is open somewhere
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # of a folder that has something in it
            for each in new:
                each.rmdir()


def check_no_training(folder):
    """Raises a BlockingIOError if a process trains in a folder now."""
    path = pathlib.Path(folder) / FILE
    if path.exists():
        with locked(path):
            pass


@contextlib.contextmanager
def locked(path):
    """Opens a file for reading and writing, with a lock.

    The file that was opened may be removed by its owner before it is locked; then it is no lock any
    more, and the next one is taken.

    Raises:
        BlockingIOError: if another process has it.
    """
    while True:
        with open(path, "a+", encoding="utf-8", errors="replace") as file:
            try:
                lock(file)
            except BlockingIOError:
                raise BlockingIOError(refusal(path, file)) from None
            except OSError as error:
                if error.errno not in WITHOUT_LOCKS:
                    raise
                print(
                    f"{path.parent}: this file system has no locks ({error.strerror}): see to it "
                    "that no other training uses the folder",
                    flush=True,
                )
            if is_there(path, file):
                yield file
                return


def lock(file):
    """Locks an open file until it is closed.

    Raises:
        BlockingIOError: if it is locked already.
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
    """Whether a path leads to an open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def write_owner(file):
    """Writes into a lock who holds it."""
    owner = {"host": socket.gethostname(), "process": os.getpid(), "since": time.ctime()}
    file.truncate(0)
    json.dump(owner, file)
    file.flush()


def refusal(path, file):
    """What to tell whoever is refused.

    Args:
        path: of the lock.
        file: the same, opened.
    """
    file.seek(0)
    try:
        owner = json.loads(file.read())
        who = f"process {owner['process']} on {owner['host']}, since {owner['since']}"
        elsewhere = owner["host"] != socket.gethostname()
    except (ValueError, LookupError, TypeError):  # it is being written
        who, elsewhere = "another process", False
    where = f" If {owner['host']} is gone and its lock stays, remove {path}" if elsewhere else ""
    return f"{path.parent}: {who}, trains there now. Wait for it, or stop it.{where}"
