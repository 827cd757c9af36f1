import errno
import fcntl
import json
import os
import signal
import socket
import time

import pytest

from tfmoe.training.run_directory import RunDirectory
from tfmoe.training.run_lock import FILE, check_no_training, only_one_training


def other_process(folder):
    """Starts a process that holds the lock of a folder until it is killed."""
    process = os.fork()
    if not process:
        with only_one_training(folder):
            time.sleep(600)
    end = time.monotonic() + 60
    while not ((folder / FILE).exists() and (folder / FILE).read_text().endswith("}")):
        assert time.monotonic() < end
        time.sleep(0.01)
    return process


def test_second_training_fails_until_the_first_is_killed(tmp_path):
    run = tmp_path / "run"
    process = other_process(run)
    try:
        message = rf"run: process {process} on {socket.gethostname()}, since .*trains there now"
        with pytest.raises(BlockingIOError, match=message), only_one_training(run):
            pytest.fail("the block was entered")
        for attempt in (lambda: check_no_training(run), RunDirectory(run).clear):
            with pytest.raises(BlockingIOError, match=message):
                attempt()
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    assert (run / FILE).exists()
    check_no_training(run)
    with only_one_training(run):
        owner = json.loads((run / FILE).read_text())
        assert (owner["process"], owner["host"]) == (os.getpid(), socket.gethostname())
    assert not tmp_path.joinpath("run", FILE).exists()


def test_second_lock_in_one_process_fails(tmp_path):
    refused = pytest.raises(BlockingIOError, match="trains there now")
    with only_one_training(tmp_path), refused, only_one_training(tmp_path):
        pytest.fail("the block was entered")
    check_no_training(tmp_path)


def test_lock_of_another_host(tmp_path, monkeypatch):
    """On NFS, another host may hold the lock."""
    with only_one_training(tmp_path):
        monkeypatch.setattr(socket, "gethostname", lambda: "another")
        with pytest.raises(BlockingIOError, match=rf"is gone and its lock stays, remove .*{FILE}"):
            check_no_training(tmp_path)


def test_lock_with_unreadable_owner(tmp_path):
    with only_one_training(tmp_path):
        (tmp_path / FILE).write_bytes(b"\xff")
        with pytest.raises(BlockingIOError, match="another process, trains there now"):
            check_no_training(tmp_path)


def test_created_folders_are_removed_if_empty(tmp_path):
    with pytest.raises(KeyError), only_one_training(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    with only_one_training(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").touch()
    with only_one_training(tmp_path / "a"):
        pass
    assert (tmp_path / "a" / "b" / "file").exists()


def test_lock_file_removed_between_opening_and_locking(tmp_path, monkeypatch):
    """A lock on a file that its owner has removed is void."""

    flock, removed = fcntl.flock, []

    def removed_before(file, operation):
        if not removed:
            removed.append(os.unlink(tmp_path / FILE))
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", removed_before)
    with only_one_training(tmp_path):
        assert (tmp_path / FILE).exists()
        with pytest.raises(BlockingIOError):
            check_no_training(tmp_path)


def test_file_system_without_locks(tmp_path, monkeypatch, capsys):

    def refuse(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with only_one_training(tmp_path):
        pass
    assert "has no locks (No locks available)" in capsys.readouterr().out
