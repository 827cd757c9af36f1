"""Exit statuses and error messages, tested with small commands."""

import errno
import io
import json
import os
import signal
import sys

import pytest
import typer

from tfmoe.cli import exit_status, main
from tfmoe.cli.exit_status import Commands, interruptions_recorded, resumable
from tfmoe.cli.output import print_json
from tfmoe.config.problems import ConfigError, Problem
from tfmoe.distribute import full_disks


@pytest.fixture
def run_command(capsys, monkeypatch):
    """A function that runs another function as a command, and returns `(exit status, standard
    output, standard error)`.
    """
    monkeypatch.delenv("TFMOE_DEBUG", raising=False)

    def run_command(function):
        app = typer.Typer(cls=Commands, pretty_exceptions_enable=False)
        app.command("it")(function)
        app.command("other")(lambda: None)
        with pytest.raises(SystemExit) as caught, interruptions_recorded():
            app(["it"], prog_name="tfmoe")
        return (caught.value.code or 0, *capsys.readouterr())

    return run_command


def raising(error):
    def command():
        raise error

    return command


FULL = OSError(errno.ENOSPC, "No space left on device", "a/history.csv")


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ValueError("k must be 1"), 2, "tfmoe: k must be 1 (TFMOE_DEBUG=1 shows the traceback)\n"),
        (ConfigError([Problem("a:1", "k", "bad"), Problem("", "l", "")]), 2, "a:1: k: bad\nl\n"),
        (
            FULL,
            1,
            "tfmoe: a/history.csv: No space left on device (TFMOE_DEBUG=1 shows the traceback)\n",
        ),
        (KeyboardInterrupt(), 130, "\ntfmoe: interrupted\n"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
        (typer.Exit(3), 3, ""),
    ],
)
def test_statuses(run_command, error, status, message):
    assert run_command(raising(error)) == (status, "", message)


def test_other_errors_are_not_hidden(run_command, monkeypatch):
    with pytest.raises(RuntimeError):
        run_command(raising(RuntimeError("a bug")))
    monkeypatch.setenv("TFMOE_DEBUG", "1")
    with pytest.raises(ValueError):
        run_command(raising(ValueError("with a traceback")))


@pytest.mark.parametrize("error", [ValueError, RuntimeError, ImportError])
def test_a_library_turns_an_interruption_into_another_error(run_command, error):
    def command():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise error("in a callback") from None

    assert run_command(command) == (130, "", "\ntfmoe: interrupted\n")
    assert run_command(raising(ValueError("later")))[0] == 2


def test_an_ignored_interruption_stays_ignored(run_command):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert run_command(lambda: signal.raise_signal(signal.SIGINT)) == (0, "", "")
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "\ntfmoe: stopped; hint\n"),
        (BrokenPipeError(), 141, "tfmoe: standard output was closed: stopped; hint\n"),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded", "a"),
            1,
            "tfmoe: a: Disk quota exceeded; everything saved before is kept; stopped; hint "
            "(TFMOE_DEBUG=1 shows the traceback)\n",
        ),
        (ValueError("no"), 2, "tfmoe: no (TFMOE_DEBUG=1 shows the traceback)\n"),
    ],
)
def test_hint_how_to_resume(run_command, error, status, message):
    def command():
        with resumable(lambda: "stopped; hint"):
            raise error

    assert run_command(command) == (status, "", message)


def test_messages_are_escaped_and_shortened(run_command):
    err = run_command(raising(ValueError("a\x1b[2J\nb")))[2]
    assert err == "tfmoe: a\\x1b[2J\nb (TFMOE_DEBUG=1 shows the traceback)\n"
    err = run_command(raising(ValueError("x" * 1_000_000)))[2]
    assert len(err) < 1100 and err.endswith("x…\n")
    err = run_command(raising(ValueError("x\n" * 1000)))[2]
    assert err.count("\n") == 41


@pytest.fixture
def written(monkeypatch):
    """A function that gives standard output another encoding, and returns its bytes."""

    def written(encoding):
        buffer = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding))
        return buffer

    return written


@pytest.mark.parametrize("command", [["describe", "demo/language_model"], ["configs"]])
def test_output_that_cannot_encode_all_characters(written, command):
    buffer = written("ascii")
    with pytest.raises(SystemExit) as caught:
        main(command)
    assert not caught.value.code
    assert (b"\\xb7" in buffer.getvalue()) == (command[0] == "describe")


@pytest.mark.parametrize(("encoding", "letter"), [("utf-8", "ä"), ("ascii", "\\u00e4")])
def test_json_in_any_encoding(written, encoding, letter):
    buffer = written(encoding)
    value = {"ä": ["\x9b0m\u202e\n", "中"]}
    print_json(value, indent=1)
    sys.stdout.flush()
    text = buffer.getvalue().decode(encoding)
    assert json.loads(text) == value
    assert letter in text and "\\u009b0m\\u202e\\n" in text and text.count("\n") == 6


def test_a_closed_pipe(monkeypatch):
    """The output is buffered, and written at the end to a pipe that `head` has closed."""
    reading, writing = os.pipe()
    os.close(reading)
    out = os.fdopen(writing, "w")
    monkeypatch.setattr(sys, "stdout", out)
    with pytest.raises(SystemExit) as caught:
        main(["configs"])
    assert caught.value.code == 141
    out.close()  # as Python does at exit


def test_both_lists_of_full_disk_errors_are_equal():
    """There are two lists, because the command line must not import TensorFlow."""
    assert exit_status.FULL_DISK_ERRORS == full_disks.ERROR_CODES
