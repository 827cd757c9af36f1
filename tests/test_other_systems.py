"""Windows support, tested on other systems: POSIX modules, signals and calls are removed, and
stand-ins replace those of Windows.
"""

import ast
import importlib.util
import os
import pathlib
import re
import signal
import subprocess
import sys
import types

import pytest
from test_imports import EVERY_FILE, file_name

import tfmoe
import tfmoe.cli.exit_status  # and Typer, which checks the system at import

PACKAGE = pathlib.Path(tfmoe.__file__).parent
POSIX_ONLY = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
POSIX_SIGNALS = {"SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGUSR1", "SIGUSR2"}


class Locks:
    """`msvcrt`, of one process: a locked byte is refused with EACCES until its file is closed."""

    LK_NBLCK = 2

    def __init__(self):
        self.held = {}  # {inode: descriptor}

    def locking(self, descriptor, mode, count):
        status = os.fstat(descriptor)
        assert (mode, count) == (self.LK_NBLCK, 1)
        assert os.lseek(descriptor, 0, os.SEEK_CUR) > status.st_size
        holder = self.held.get(status.st_ino)
        if holder not in (None, descriptor) and self.is_open(holder, status):
            raise PermissionError(13, "Permission denied")
        self.held[status.st_ino] = descriptor

    @staticmethod
    def is_open(descriptor, status):
        try:
            return os.path.samestat(os.fstat(descriptor), status)
        except OSError:
            return False


@pytest.fixture
def windows(monkeypatch):
    """A function that loads a file of tfmoe as if on Windows."""
    for name in POSIX_ONLY:
        monkeypatch.setitem(sys.modules, name, None)
    for name in POSIX_SIGNALS - {"SIGKILL"}:
        monkeypatch.delattr(signal, name, raising=False)
    monkeypatch.setitem(sys.modules, "msvcrt", Locks())
    monkeypatch.setattr(sys, "platform", "win32")

    def windows(path):
        spec = importlib.util.spec_from_file_location("on_windows", PACKAGE / path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return windows


def test_one_training_at_a_time(windows, tmp_path, monkeypatch):
    name = "tfmoe.data_pipelines.file_locks"
    monkeypatch.setitem(sys.modules, name, windows("data_pipelines/file_locks.py"))
    run_lock = windows("training/run_lock.py")
    run = tmp_path / "run"
    refused = pytest.raises(BlockingIOError, match=f"process {os.getpid()} on .*trains there now")
    with run_lock.only_one_training(run):
        with refused:
            run_lock.check_no_training(run)
        (run / "result").touch()
    assert [path.name for path in run.iterdir()] == ["result"]
    run_lock.check_no_training(run)
    with run_lock.only_one_training(run):
        assert (run / run_lock.FILE).exists()


def test_available_memory_is_unknown(windows, tmp_path):
    assert windows("analysis/machine.py").available_memory(tmp_path) is None


def test_process_groups_of_workers(windows, monkeypatch):
    processes = windows("tasks/processes.py")
    assert processes.TERMINATION_SIGNALS == (signal.SIGTERM,)
    monkeypatch.setattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 512, raising=False)
    assert processes.process_group_arguments() == {"creationflags": 512}
    monkeypatch.setattr(sys, "platform", "darwin")
    assert processes.process_group_arguments() == {"process_group": 0}


@pytest.mark.parametrize(
    ("handle", "waited", "alive"), [(0, 0, False), (7, 258, True), (7, 0, False)]
)
def test_is_alive_without_signals(windows, monkeypatch, handle, waited, alive):
    atomic_write = windows("data_pipelines/atomic_write.py")
    closed = []
    kernel = types.SimpleNamespace(
        OpenProcess=lambda access, inherit, process: handle if process == 4321 else 0,
        WaitForSingleObject=lambda handle, milliseconds: waited,
        CloseHandle=closed.append,
    )
    monkeypatch.setattr("ctypes.windll", types.SimpleNamespace(kernel32=kernel), raising=False)
    assert atomic_write.is_alive(4321) is alive
    assert closed == [handle] * bool(handle)


def test_the_command_line_is_there(windows):
    assert windows("cli/exit_status.py").PIPE_CLOSED == 141
    windows("__main__.py")


def guarded(tree):
    """The ids of the nodes below a test of `sys.platform`."""
    return {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "sys.platform" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }


def needs_posix(text):
    """The POSIX features that a module needs at import."""
    tree = ast.parse(text)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    later = guarded(tree) | {id(node) for function in functions for node in ast.walk(function)}
    return [
        ast.unparse(node)
        for node in ast.walk(tree)
        if id(node) not in later
        and (
            (isinstance(node, ast.Import) and {alias.name for alias in node.names} & POSIX_ONLY)
            or (isinstance(node, ast.Attribute) and node.attr in POSIX_SIGNALS)
        )
    ]


def test_no_module_needs_posix_to_be_imported():
    texts = {file_name(path): path.read_text(encoding="utf-8") for path in EVERY_FILE}
    words = re.compile("|".join(POSIX_ONLY | POSIX_SIGNALS))
    suspects = {name: text for name, text in texts.items() if words.search(text)}
    assert {"tfmoe/training/run_lock.py", "tfmoe/analysis/machine.py"} <= suspects.keys()
    assert {name: needs_posix(text) for name, text in suspects.items() if needs_posix(text)} == {}
    assert needs_posix("import signal, fcntl\nA = signal.SIGHUP") == [
        "import signal, fcntl",
        "signal.SIGHUP",
    ]
