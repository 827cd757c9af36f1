"""How commands end, tried with small commands of the same group."""

import errno
import io
import json
import os
import signal
import sys

import pytest
import typer

from tfmoe.cli import endings, main
from tfmoe.cli.endings import Commands, interruptions_noted, resumable
from tfmoe.cli.output import print_json
from tfmoe.config.problems import ConfigError, Problem
from tfmoe.distribute import full_disks


@pytest.fixture
def ended(capsys, monkeypatch):
    """A function that runs another function as a command, and gives `(exit status, standard output,
    standard error)`.
    """
    monkeypatch.delenv("TFMOE_DEBUG", raising=False)

    def ended(function):
        app = typer.Typer(cls=Commands, pretty_exceptions_enable=False)
        app.command("it")(function)
        app.command("other")(lambda: None)
        with pytest.raises(SystemExit) as caught, interruptions_noted():
            app(["it"], prog_name="tfmoe")
        return (caught.value.code or 0, *capsys.readouterr())

    return ended


def raising(error):
    def command():
        raise error

    return command


FULL = OSError(errno.ENOSPC, "No space left on device", "a/history.csv")


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ValueError("k must be 1"), 2, "tfmoe: k must be 1 (TFMOE_DEBUG=1 shows where)\n"),
        (ConfigError([Problem("a:1", "k", "bad"), Problem("", "l", "")]), 2, "a:1: k: bad\nl\n"),
        (FULL, 1, "tfmoe: a/history.csv: No space left on device (TFMOE_DEBUG=1 shows where)\n"),
        (KeyboardInterrupt(), 130, "\ntfmoe: interrupted\n"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
        (typer.Exit(3), 3, ""),
    ],
)
def test_statuses(ended, error, status, message):
    assert ended(raising(error)) == (status, "", message)


def test_other_errors_are_not_hidden(ended, monkeypatch):
    with pytest.raises(RuntimeError):
        ended(raising(RuntimeError("of ours")))
    monkeypatch.setenv("TFMOE_DEBUG", "1")
    with pytest.raises(ValueError):
        ended(raising(ValueError("with a traceback")))


@pytest.mark.parametrize("error", [ValueError, RuntimeError, ImportError])
def test_what_a_library_makes_of_an_interruption(ended, error):
    def command():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise error("in a callback") from None

    assert ended(command) == (130, "", "\ntfmoe: interrupted\n")
    assert ended(raising(ValueError("later")))[0] == 2


def test_an_interruption_that_is_ignored_stays_so(ended):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert ended(lambda: signal.raise_signal(signal.SIGINT)) == (0, "", "")
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "\ntfmoe: stopped; go on\n"),
        (BrokenPipeError(), 141, "tfmoe: standard output was closed: stopped; go on\n"),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded", "a"),
            1,
            "tfmoe: a: Disk quota exceeded; all that was saved before is kept; stopped; go on "
            "(TFMOE_DEBUG=1 shows where)\n",
        ),
        (ValueError("no"), 2, "tfmoe: no (TFMOE_DEBUG=1 shows where)\n"),
    ],
)
def test_how_to_go_on(ended, error, status, message):
    def command():
        with resumable(lambda: "stopped; go on"):
            raise error

    assert ended(command) == (status, "", message)


def test_a_terminal_is_not_moved_by_messages_nor_filled(ended):
    err = ended(raising(ValueError("a\x1b[2J\nb")))[2]
    assert err == "tfmoe: a\\x1b[2J\nb (TFMOE_DEBUG=1 shows where)\n"
    err = ended(raising(ValueError("x" * 1_000_000)))[2]
    assert len(err) < 1100 and err.endswith("x…\n")
    err = ended(raising(ValueError("x\n" * 1000)))[2]
    assert err.count("\n") == 41


@pytest.fixture
def written(monkeypatch):
    """A function that gives standard output another encoding, and gives its bytes."""

    def written(encoding):
        buffer = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding))
        return buffer

    return written


@pytest.mark.parametrize("command", [["describe", "demo/language_model"], ["configs"]])
def test_output_that_cannot_show_all_characters(written, command):
    buffer = written("ascii")
    with pytest.raises(SystemExit) as caught:
        main(command)
    assert not caught.value.code
    assert (b"\\xb7" in buffer.getvalue()) == (command[0] == "describe")


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", "ä"), ("ascii", "\\u00e4")])
def test_json_in_any_encoding(written, encoding, shown):
    buffer = written(encoding)
    value = {"ä": ["\x9b0m\u202e\n", "中"]}
    print_json(value, indent=1)
    sys.stdout.flush()
    text = buffer.getvalue().decode(encoding)
    assert json.loads(text) == value
    assert shown in text and "\\u009b0m\\u202e\\n" in text and text.count("\n") == 6


def test_a_closed_pipe(monkeypatch):
    """What is printed is written at the end only, to a pipe that `head` has closed."""
    reading, writing = os.pipe()
    os.close(reading)
    out = os.fdopen(writing, "w")
    monkeypatch.setattr(sys, "stdout", out)
    with pytest.raises(SystemExit) as caught:
        main(["configs"])
    assert caught.value.code == 141
    out.close()  # as Python does at its end


def test_errors_of_a_full_disk_are_those_that_are_named():
    """Two lists: the command line cannot import TensorFlow's side of it."""
    assert endings.FULL == full_disks.ERROR_CODES
