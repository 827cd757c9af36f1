import errno
import os
import signal
import socket

import pytest

from tfmoe.data_pipelines.atomic_write import (
    atomic_folder,
    atomic_write,
    remove_leftovers,
    temporary_name,
)


def test_a_link_is_followed(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    os.symlink("real.txt", tmp_path / "link.txt")
    with atomic_write(tmp_path / "link.txt") as file:
        file.write("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.txt", "real.txt"]


def test_what_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, what in ((tmp_path / "pipe", "not a regular file"), (tmp_path, "a folder")):
        error = pytest.raises(OSError, match=f"is {what}: give the name of a file")
        with error, atomic_write(path):
            pytest.fail("the block was entered")
    assert (tmp_path / "pipe").is_fifo()


def killed_in_a_block(path):
    """The number of a process that a kill ended while it wrote a file."""
    process = os.fork()
    if not process:
        with atomic_write(path) as file:
            file.write("half")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(process, 0)
    return process


def test_what_a_kill_leaves_is_removed_by_the_next_write(tmp_path):
    path = tmp_path / "a[1].txt"
    process = killed_in_a_block(path)
    (left,) = tmp_path.iterdir()
    assert left.name == f".a[1].txt.{socket.gethostname()}.{process}.tmp"
    kept = {
        f".a[1].txt.{socket.gethostname()}.{os.getppid()}.tmp",  # of a live process
        ".a[1].txt.another-host.1.tmp",
        f".b.txt.{socket.gethostname()}.{process}.tmp",
        ".a[1].txt.mine.tmp",
    }
    for name in kept:
        (tmp_path / name).touch()
    with atomic_write(path) as file:
        file.write("whole")
    assert {each.name for each in tmp_path.iterdir()} == {"a[1].txt", *kept}


def test_a_folder_that_a_kill_leaves(tmp_path):
    """An earlier process may have had the number of this one, as in containers."""
    folder = temporary_name(tmp_path / "7")
    (folder / "deep").mkdir(parents=True)
    remove_leftovers(tmp_path, "6")
    assert folder.is_dir()
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("text")
    new = tmp_path / "file" / "new"
    error = pytest.raises(NotADirectoryError, match=f"file is no folder: '{new}'")
    with error, atomic_folder(new):
        pytest.fail("the block was entered")
    error = pytest.raises(OSError, match="'/proc/new'")  # where no folder can be made
    with error, atomic_folder("/proc/new"):
        pytest.fail("the block was entered")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_full_disk(tmp_path, full_disk):
    (tmp_path / "file").write_text("old")
    with full_disk(1000), pytest.raises(OSError) as caught, atomic_write(tmp_path / "file") as file:
        file.write("new" * 1000)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"), atomic_write(tmp_path / "file"):
        (tmp_path / "nowhere").read_text()
    with pytest.raises(OSError, match="of its own"), atomic_write(tmp_path / "file"):
        raise OSError("of its own")


def test_folders_written_side_by_side(tmp_path):
    with atomic_folder(tmp_path / "a") as first:
        (first / "file").write_text("1")
        with atomic_folder(tmp_path / "b"):
            assert not (tmp_path / "b").exists()
        assert (first / "file").exists()  # not taken for a leftover
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    with pytest.raises(FileExistsError, match="a already exists"), atomic_folder(tmp_path / "a"):
        pass
