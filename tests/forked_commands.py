"""Runs commands in processes that start at once, so that many can be killed: they are forked from a
server that has loaded all modules.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import time

from tfmoe.cli import main

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [f"tfmoe.tasks.{name}" for name in ("train", "export", "inspect", "tensorflow_import")]
)
# File operations, by the names of Python's audit events.
OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.scandir", "os.listdir")
TIMEOUT = 300  # seconds


class Operations:
    """Counts the file operations of this process below a folder, and kills the process at one of
    them.

    Args:
        folder: the folder, a `pathlib.Path`.
        dies_at: the operation, from 1; `None` for none.
    """

    def __init__(self, folder, dies_at):
        self.folder = str(folder)
        self.dies_at = dies_at
        self.count = 0

    def __call__(self, event, arguments):
        """The audit hook."""
        if event in OPERATIONS and str(arguments[0]).startswith(self.folder):
            self.count += 1
            if self.count == self.dies_at:
                os.kill(os.getpid(), signal.SIGKILL)


def command(arguments, folder, output, within, dies_at):
    """The main function of a process: runs a command in a folder.

    Args:
        arguments: of `tfmoe`.
        folder: the current directory, a `pathlib.Path`.
        output: folder for the output: files `out`, `err`, and `operations`, their count. Next to it
            is the cache.
        within, dies_at: arguments of `Operations`.
    """
    os.chdir(folder)
    os.environ["TFMOE_CACHE"] = str(output.parent / "cache")
    for descriptor, name in ((1, "out"), (2, "err")):
        file = os.open(output / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(file, descriptor)
    streams = (open(descriptor, "w", closefd=False) for descriptor in (1, 2))  # noqa: SIM115
    sys.stdout, sys.stderr = streams
    operations = Operations(within, dies_at)
    sys.addaudithook(operations)
    try:
        main([str(argument) for argument in arguments])
    finally:
        count = operations.count  # writing the file is another operation
        (output / "operations").write_text(str(count))
        sys.stdout.flush()


def run(arguments, folder, output, within, seconds=None, dies_at=None):
    """Runs a command in a new process.

    Args:
        arguments, folder, output, within, dies_at: as for `command`.
        seconds: time until it is killed; `None` to let it end.

    Returns:
        Its exit status, or `"hangs"`, and its duration in seconds.
    """
    start = time.monotonic()
    process = FORKS.Process(target=command, args=(arguments, folder, output, within, dies_at))
    process.start()
    process.join(TIMEOUT if seconds is None else seconds)
    status = process.exitcode
    if status is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.join()
        status = "hangs" if seconds is None else -signal.SIGKILL
    return status, time.monotonic() - start
