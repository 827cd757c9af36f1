"""The exit status of a command, and its error message: one line on standard error.

0: success. 1: a failure of the machine, such as a full disk. 2: an error in the input. 130:
interrupted (Ctrl-C). 141: standard output was closed.
"""

import contextlib
import errno
import os
import signal
import sys
import threading

import typer
from typer.core import TyperGroup

from tfmoe.analysis.printable import printable
from tfmoe.cli.output import discard_output
from tfmoe.config.problems import ConfigError
from tfmoe.extras import MissingExtra

INTERRUPTED = 128 + signal.SIGINT
PIPE_CLOSED = 128 + 13  # SIGPIPE, which Windows does not have
FULL_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
INPUT_ERRORS = (ValueError, OSError, FloatingPointError, MissingExtra)
MAX_LINES, MAX_LINE_LENGTH = 40, 1000  # of a message


class Interruption:
    """Records whether Ctrl-C was pressed. A library may turn the `KeyboardInterrupt` into an error
    of its own, for example in a callback or an import.
    """

    received = False

    @classmethod
    def handle(cls, _number, _frame):
        """Handles SIGINT."""
        cls.received = True
        raise KeyboardInterrupt

    @classmethod
    def is_cause_of(cls, error):
        """Whether an exception is due to Ctrl-C."""
        return isinstance(error, KeyboardInterrupt) or cls.received


@contextlib.contextmanager
def interruptions_recorded():
    """Records Ctrl-C in the block, except where it is ignored, as in the background."""
    Interruption.received = False
    in_main_thread = threading.current_thread() is threading.main_thread()
    original = signal.getsignal(signal.SIGINT)
    if not in_main_thread or original == signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, Interruption.handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, original)


class Commands(TyperGroup):
    """A group of commands with the exit statuses of this module."""

    def invoke(self, ctx):
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # here a closed pipe can be told from other errors
            return result
        except BrokenPipeError:
            discard_output()
            raise typer.Exit(PIPE_CLOSED) from None
        except BaseException as error:
            if isinstance(error, typer.Exit):
                raise
            if Interruption.is_cause_of(error):
                print_error("\ntfmoe: interrupted")
                raise typer.Exit(INTERRUPTED) from None
            if not isinstance(error, INPUT_ERRORS) or os.environ.get("TFMOE_DEBUG") == "1":
                raise
            print_error(message_of(error))
            raise typer.Exit(1 if is_full_disk(error) else 2) from None


@contextlib.contextmanager
def resumable(hint):
    """Prints how to resume if the block is interrupted, a disk is full or standard output is
    closed.

    Args:
        hint: function that returns the text, such as "stopped; repeat the command to resume".
    """
    try:
        yield
    except BaseException as error:
        if Interruption.is_cause_of(error):
            print_error(f"\ntfmoe: {hint()}")
            raise typer.Exit(INTERRUPTED) from None
        if isinstance(error, BrokenPipeError):
            discard_output()
            print_error(f"tfmoe: standard output was closed: {hint()}")
            raise typer.Exit(PIPE_CLOSED) from None
        if is_full_disk(error):
            error.add_note(f"everything saved before is kept; {hint()}")
        raise


def is_full_disk(error):
    """Whether an exception is due to a full or failing disk."""
    return isinstance(error, OSError) and error.errno in FULL_DISK_ERRORS


def message_of(error):
    """The message of an error for the user: one line, for configs one line per problem."""
    if isinstance(error, ConfigError):
        return str(error)
    text = str(error)
    if is_full_disk(error):
        file = f"{error.filename}: " if error.filename else ""
        text = "; ".join([f"{file}{error.strerror}", *getattr(error, "__notes__", ())])
    return f"tfmoe: {text} (TFMOE_DEBUG=1 shows the traceback)"


def print_error(message):
    """Prints a message on standard error, with control characters escaped and long text cut."""
    lines = printable(message, keep="\n\t").split("\n")
    if len(lines) > MAX_LINES:
        lines[MAX_LINES:] = ["…"]
    lines = [
        line if len(line) <= MAX_LINE_LENGTH else f"{line[:MAX_LINE_LENGTH]}…" for line in lines
    ]
    with contextlib.suppress(OSError):  # standard error may be closed
        print("\n".join(lines), file=sys.stderr, flush=True)
