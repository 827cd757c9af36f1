"""What exports of all formats say about their files."""

import pathlib


def megabytes(folder: pathlib.Path) -> float:
    """The total size of the files in a folder, in megabytes.

    Args:
        folder: of an export.
    """
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
