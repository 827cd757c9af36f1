"""One training at a time in a run's folder.

The lock is `flock` on a file of the folder; on Windows, a locked byte of that file. The kernel
releases it when the process ends in any way, including `kill -9`: a resumed run starts at once, and
a process id cannot be mistaken for that of a later process. On NFS (Linux) and on shared file
systems of clusters with locks, it also works between hosts.

The alternatives are worse here. A file that names its owner outlives a killed process; whether an
owner on another host is alive cannot be checked, so every run resumed on a new host, such as a
restarted container, would need manual work. POSIX locks (`lockf`) do not work within a process, and
are lost when any part of the process closes the file. The library filelock is the same `flock`,
without the owner's name. On a file system without locks, training continues without one and prints
a warning.

The file's content names the owner of the lock, for the error message of other processes.
"""

import contextlib
import json
import os
import pathlib
import socket
import sys
import time

from tfmoe.data_pipelines.file_locks import WITHOUT_LOCKS, is_there, lock

FILE = ".lock"


@contextlib.contextmanager
def only_one_training(folder):
    """Context manager that holds the lock of a run's folder.

    The folder is created if missing, and removed at the end if it was created and is still empty.

    Args:
        folder: the run's folder.

    Raises:
        BlockingIOError: if another process is training there; the message names it.
        OSError: if the folder cannot be written.
    """
    folder = pathlib.Path(folder)
    created = [path for path in (folder, *folder.parents) if not path.exists()]
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
            with contextlib.suppress(PermissionError):  # another process has the file open
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a folder is not empty
            for parent in created:
                parent.rmdir()


def check_no_training(folder):
    """Checks that no process is training in a folder.

    Raises:
        BlockingIOError: if a process is; the message names it.
    """
    path = pathlib.Path(folder) / FILE
    if path.exists():
        with locked(path):
            pass


@contextlib.contextmanager
def locked(path):
    """Opens and locks a file, for reading and writing.

    If the owner of the lock removes the file between opening and locking, the lock is void, and the
    file is opened again.

    Raises:
        BlockingIOError: if another process holds the lock.
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
                    f"{path.parent}: this file system has no locks ({error.strerror}): make sure "
                    "that no other training uses this folder",
                    flush=True,
                )
            if is_there(path, file):
                yield file
                return


def write_owner(file):
    """Writes the owner of a lock into its file."""
    owner = {"host": socket.gethostname(), "process": os.getpid(), "since": time.ctime()}
    file.truncate(0)
    json.dump(owner, file)
    file.flush()


def refusal(path, file):
    """The error message for a process that cannot take the lock.

    Args:
        path: path of the lock.
        file: the same file, open for reading.
    """
    file.seek(0)
    try:
        owner = json.loads(file.read())
        name = f"process {owner['process']} on {owner['host']}, since {owner['since']}"
        is_remote = owner["host"] != socket.gethostname()
    except (ValueError, LookupError, TypeError):  # the owner is writing it
        name, is_remote = "another process", False
    hint = f" If {owner['host']} is gone and its lock stays, remove {path}" if is_remote else ""
    return f"{path.parent}: {name}, trains there now. Wait for it, or stop it.{hint}"
