"""Commands in processes of their own that start at once, so that many of them can be killed: a
server has all modules loaded, and forks.
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
# What Python does with files, as its audit hooks name it.
OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.scandir", "os.listdir")
HANGS = 300  # seconds


class Operations:
    """Counts the file operations of this process below a folder; kills it at one of them.

    Args:
        folder: the folder, a `pathlib.Path`.
        dies_at: the number of the operation, from 1; `None` for none.
    """

    def __init__(self, folder, dies_at):
        self.folder = str(folder)
        self.dies_at = dies_at
        self.number = 0

    def __call__(self, event, arguments):
        """The audit hook."""
        if event in OPERATIONS and str(arguments[0]).startswith(self.folder):
            self.number += 1
            if self.number == self.dies_at:
                os.kill(os.getpid(), signal.SIGKILL)


def command(arguments, folder, output, within, dies_at):
    """What a process does: runs a command in a folder.

    Args:
        arguments: of `tfmoe`.
        folder: the current one, a `pathlib.Path`.
        output: folder for what it writes: `out`, `err`, and `operations`, how many there were.
        within, dies_at: folder and number of `Operations`.
    """
    os.chdir(folder)
    os.environ["TFMOE_CACHE"] = str(folder)
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(output / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(file, number)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
    operations = Operations(within, dies_at)
    sys.addaudithook(operations)
    try:
        main([str(each) for each in arguments])
    finally:
        number = operations.number
        (output / "operations").write_text(str(number))
        sys.stdout.flush()


def run(arguments, folder, output, within, seconds=None, dies_at=None):
    """Runs a command in a process of its own.

    Args:
        arguments, folder, output, within, dies_at: as for `command`.
        seconds: after which it is killed; `None` for not.

    Returns:
        Its exit status, or `"hangs"`; how many seconds it took.
    """
    begin = time.monotonic()
    process = FORKS.Process(target=command, args=(arguments, folder, output, within, dies_at))
    process.start()
    process.join(HANGS if seconds is None else seconds)
    status = process.exitcode
    if status is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.join()
        status = "hangs" if seconds is None else -signal.SIGKILL
    return status, time.monotonic() - begin
