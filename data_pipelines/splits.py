"""The three parts of a corpus, as lists of files."""

import dataclasses

from tfmoe.data_pipelines.parallel_files import ParallelFiles

Files = list[str] | list[ParallelFiles]


@dataclasses.dataclass(frozen=True)
class Splits:
    """Training, validation and test files of one corpus.

    Every corpus of this package gives a `Splits`, so that the rest of the project reads only files.

    Args:
        train: list of paths, as strings, or of `ParallelFiles`. May be empty if the corpus is only
            evaluated.
        valid, test: such lists. May be empty.
    """

    train: Files
    valid: Files
    test: Files
