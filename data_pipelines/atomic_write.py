"""Files that are either complete or absent."""

import contextlib
import ctypes
import errno
import os
import pathlib
import re
import shutil
import socket
import sys

# Of Windows' kernel32.
SYNCHRONIZE, WAIT_TIMEOUT = 0x100000, 258


@contextlib.contextmanager
def atomic_write(path):
    """Opens a text file which appears under its name only when it is complete.

    The text goes to a temporary file in the same directory, which is renamed on leaving the block.
    If the block raises, the temporary file is removed and whatever had the name before is
    untouched. A link is followed.

    Args:
        path: of the file. Missing parent directories are made.

    Raises:
        OSError: if it cannot be written; also if the path is no regular file, such as
            `/dev/stdout`, which renaming would replace.

    Yields:
        A file open for writing UTF-8 text with `\\n` line ends.
    """
    with _renamed_when_complete(path, "w", encoding="utf-8", newline="\n") as file:
        yield file


def atomic_write_bytes(path, content):
    """Writes a file of bytes as `atomic_write` writes text: in full or not at all.

    Args:
        path: of the file. Missing parent directories are made.
        content: the bytes.
    """
    with _renamed_when_complete(path, "wb") as file:
        file.write(content)


@contextlib.contextmanager
def atomic_folder(path):
    """Makes a folder which appears under its name only when it is complete.

    Files are written to a temporary folder next to it, which is renamed on leaving the block. If
    the block raises, the temporary folder is removed.

    Args:
        path: of the folder, which must not exist. Missing parent directories are made.

    Raises:
        FileExistsError: if the path exists, before the block or after it.
        OSError: if the folder cannot be made; it names the path.

    Yields:
        The path of the temporary folder, which exists.
    """
    path = pathlib.Path(path)
    check_absent(path)
    temporary = temporary_name(path)
    try:
        make_folder(temporary, path)
        yield temporary
        check_absent(path)  # `rename` would replace an empty folder
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def make_folder(temporary, path):
    """Makes the temporary folder of `atomic_folder`. Errors name the path."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, path.name)
        temporary.mkdir()
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, f"{path.parent} is no folder", str(path)) from error
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def check_absent(path):
    """Raises a FileExistsError if there is a file or folder of this name."""
    if path.exists() or path.is_symlink():
        raise FileExistsError(f"{path} already exists and is not overwritten: choose a new name")


def check_writable(path):
    """Raises an OSError if a file of this name could not be replaced. Call it before long work
    whose result goes there.
    """
    path = pathlib.Path(path)
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "not a regular file"
        raise OSError(f"{path} is {what}: give the name of a file")


def temporary_name(path):
    """The name under which this process writes what is to have the name `path`: hidden, in the same
    folder, with the host and the process, `.NAME.HOST.PID.tmp`.

    Args:
        path: of a file or a folder, a `pathlib.Path`.
    """
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")


def remove_leftovers(folder, name=None):
    """Removes what killed processes of this host left of files and folders that they wrote. What a
    live process writes, or a process of another host, stays.

    Args:
        folder: in which they wrote, a `pathlib.Path`; it need not exist.
        name: that it was to have; `None` for any.
    """
    name = ".+" if name is None else re.escape(name)
    host = re.escape(socket.gethostname())
    pattern = re.compile(rf"\.{name}\.{host}\.([0-9]+)\.tmp", re.DOTALL)
    with contextlib.suppress(OSError):  # of a folder that may not be read
        for path in folder.iterdir():
            process = pattern.fullmatch(path.name)
            # An earlier process had our own number, as in containers that are started again.
            if not process or (int(process[1]) != os.getpid() and is_alive(int(process[1]))):
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def is_alive(process):
    """Whether a process of this host runs, by its number."""
    if sys.platform == "win32":  # where `os.kill(process, 0)` interrupts the process
        return _is_alive_on_windows(process)
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it runs, and is somebody else's
        return True
    return True


def _is_alive_on_windows(process):
    kernel = ctypes.windll.kernel32
    handle = kernel.OpenProcess(SYNCHRONIZE, False, process)
    if not handle:
        return False
    alive = kernel.WaitForSingleObject(handle, 0) == WAIT_TIMEOUT
    kernel.CloseHandle(handle)
    return alive


@contextlib.contextmanager
def _renamed_when_complete(path, mode, **options):
    check_writable(path)
    path = pathlib.Path(os.path.realpath(path))
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, path.name)
        with open(temporary, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise  # of another file, which the block reads or writes
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
