import os

import pytest

from data_pipelines.atomic_write import atomic_write


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
