from pathlib import Path

import pytest

from tfmoe.data_pipelines import (
    ParallelFiles,
    TextError,
    by_direction,
    find_parallel,
    without_reversed,
)


def write(directory, *names):
    for name in names:
        Path(directory, name).write_text("x")


def test_find_parallel(tmp_path):
    write(tmp_path, "a.de", "a.en", "b.de.gz", "b.en", "c.de", "c.en", "c.de.gz")
    root = str(tmp_path)
    assert find_parallel(tmp_path / "a", "en", "de", weight=2.0) == ParallelFiles(
        [f"{root}/a.en"], [f"{root}/a.de"], "en", "de", 2.0
    )
    both = ParallelFiles(
        [f"{root}/a.de", f"{root}/b.de.gz", f"{root}/c.de"],
        [f"{root}/a.en", f"{root}/b.en", f"{root}/c.en"],
        "de",
        "en",
    )
    assert find_parallel(tmp_path / "*", "de", "en") == both
    assert find_parallel([tmp_path / "a", tmp_path / "[abc]"], "de", "en") == both


def test_find_parallel_errors(tmp_path):
    write(tmp_path, "a.de", "b.en")
    with pytest.raises(TextError, match=r"/a\.en: no such file, nor .*/a\.en\.gz \(looked from /"):
        find_parallel(tmp_path / "a", "de", "en")
    with pytest.raises(TextError, match=r"/b\.de: no such file, nor .*/b\.de\.gz"):
        find_parallel(tmp_path / "b*", "de", "en")
    with pytest.raises(
        TextError, match=r"/c\*: no file matches .*/c\*\.de\[\.gz\] or .*/c\*\.en\[\.gz\] \(looked"
    ):
        find_parallel(tmp_path / "c*", "de", "en")
    with pytest.raises(TextError, match="no parallel text given"):
        find_parallel([], "de", "en")


def test_parallel_files_are_checked():
    with pytest.raises(ValueError, match="source and target must have equally many files, got 1"):
        ParallelFiles(["a"], [], "de", "en")
    with pytest.raises(ValueError, match="weight must be a number above 0, got 0"):
        ParallelFiles(["a"], ["b"], "de", "en", 0)


FILES = [
    ParallelFiles(["a.en"], ["a.de"], "en", "de"),
    ParallelFiles(["a.de"], ["a.en"], "de", "en"),
    ParallelFiles(["b.de"], ["b.en"], "de", "en"),
    ParallelFiles(["a.en"], ["a.de"], "en", "de", 2.0),
]


def test_without_reversed():
    assert without_reversed(FILES) == [FILES[0], FILES[2]]


def test_by_direction():
    assert by_direction(FILES) == {"en-de": [FILES[0], FILES[3]], "de-en": FILES[1:3]}
