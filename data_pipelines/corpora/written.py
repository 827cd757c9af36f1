"""Text that a corpus writes. It is complete when `corpus.json`, its description, exists."""

import json
import pathlib

from tfmoe.data_pipelines.atomic_write import atomic_write

DESCRIPTION = "corpus.json"
PARTS = ("train", "valid", "test")


def is_complete(directory, expected, files):
    """Whether a directory holds a complete corpus.

    Args:
        directory: a `pathlib.Path`.
        expected: dictionary: what `corpus.json` must say, among other things.
        files: names of files that must be there.
    """
    try:
        description = json.loads((directory / DESCRIPTION).read_text(encoding="utf-8"))
        same = all(description[key] == value for key, value in expected.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return same and all((directory / file).is_file() for file in files)


def begin(directory):
    """Marks a directory as incomplete, before text in it changes."""
    (pathlib.Path(directory) / DESCRIPTION).unlink(missing_ok=True)


def finish(directory, description):
    """Marks a directory as complete. `description`: what `corpus.json` says, for JSON."""
    with atomic_write(pathlib.Path(directory) / DESCRIPTION) as file:
        json.dump(description, file, indent=1)
