"""What exports of all formats say about their files."""

import pathlib

from tfmoe.data_pipelines import END, START, UNKNOWN


def megabytes(folder: pathlib.Path) -> float:
    """The total size of the files in a folder, in megabytes.

    Args:
        folder: of an export.
    """
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def ids_of(vocabulary, file):
    """What a client must know of the ids of a `Vocabulary` or of `Subwords`, for the manifest.

    Args:
        vocabulary: the `Vocabulary` or `Subwords`.
        file: the name of its file in the export.
    """
    languages = getattr(vocabulary, "languages", [])
    return {
        "file": file,
        "size": len(vocabulary),
        "end": END,  # and padding
        "start": START,
        "unknown": UNKNOWN,
        "languages": {name: vocabulary.language_id(name) for name in languages},
    }
