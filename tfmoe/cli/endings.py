"""How a command ends: an exit status, and one line on standard error if it failed.

0: done. 1: the machine failed it, as a full disk does. 2: a mistake in what it was given. 130:
interrupted (Ctrl-C). 141: nobody reads its output any more.
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
from tfmoe.cli.output import leave_pipe
from tfmoe.config.problems import ConfigError
from tfmoe.extras import MissingExtra

INTERRUPTED = 128 + signal.SIGINT
PIPE_CLOSED = 128 + 13  # SIGPIPE, which Windows does not have
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
MISTAKES = (ValueError, OSError, FloatingPointError, MissingExtra)
MOST_LINES, LONGEST = 40, 1000  # of a message


class Interruption:
    """Whether Ctrl-C came. What a library makes of the `KeyboardInterrupt` that it meets (an error
    of its own, if it comes within a callback or an import) is an interruption all the same.
    """

    came = False

    @classmethod
    def note(cls, _number, _frame):
        """Handles SIGINT."""
        cls.came = True
        raise KeyboardInterrupt

    @classmethod
    def is_cause_of(cls, error):
        """Whether an exception is an interruption."""
        return isinstance(error, KeyboardInterrupt) or cls.came


@contextlib.contextmanager
def interruptions_noted():
    """Notes Ctrl-C in the block. Where it is ignored, as in the background, it stays so."""
    Interruption.came = False
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    if not in_main_thread or before == signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, Interruption.note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Commands(TyperGroup):
    """The commands, which end as this module says."""

    def invoke(self, ctx):
        try:
            found = super().invoke(ctx)
            sys.stdout.flush()  # while a closed pipe can still be told from other errors
            return found
        except BrokenPipeError:
            leave_pipe()
            raise typer.Exit(PIPE_CLOSED) from None
        except BaseException as error:
            if isinstance(error, typer.Exit):
                raise
            if Interruption.is_cause_of(error):
                say("\ntfmoe: interrupted")
                raise typer.Exit(INTERRUPTED) from None
            if not isinstance(error, MISTAKES) or os.environ.get("TFMOE_DEBUG") == "1":
                raise
            say(message_of(error))
            raise typer.Exit(1 if is_full(error) else 2) from None


@contextlib.contextmanager
def resumable(how):
    """Says how to go on with what the block did, if it was interrupted, a disk was full or nobody
    reads standard output any more.

    Args:
        how: function that gives the words, such as "stopped; the same command goes on with it".
    """
    try:
        yield
    except BaseException as error:
        if Interruption.is_cause_of(error):
            say(f"\ntfmoe: {how()}")
            raise typer.Exit(INTERRUPTED) from None
        if isinstance(error, BrokenPipeError):
            leave_pipe()
            say(f"tfmoe: standard output was closed: {how()}")
            raise typer.Exit(PIPE_CLOSED) from None
        if is_full(error):
            error.add_note(f"all that was saved before is kept; {how()}")
        raise


def is_full(error):
    """Whether an exception says that a disk is full, or fails."""
    return isinstance(error, OSError) and error.errno in FULL


def message_of(error):
    """An error for the user: one line, of configs one for each mistake."""
    if isinstance(error, ConfigError):
        return str(error)
    text = str(error)
    if is_full(error):
        where = f"{error.filename}: " if error.filename else ""
        text = "; ".join([f"{where}{error.strerror}", *getattr(error, "__notes__", ())])
    return f"tfmoe: {text} (TFMOE_DEBUG=1 shows where)"


def say(message):
    """Prints a message on standard error, control characters as escape sequences, what is too long
    cut.
    """
    lines = printable(message, keep="\n\t").split("\n")
    if len(lines) > MOST_LINES:
        lines[MOST_LINES:] = ["…"]
    message = "\n".join(line if len(line) <= LONGEST else f"{line[:LONGEST]}…" for line in lines)
    with contextlib.suppress(OSError):  # nobody may read it
        print(message, file=sys.stderr, flush=True)
