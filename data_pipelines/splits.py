"""The three parts of a corpus, as lists of files."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Splits:
    """Training, validation and test files of one corpus.

    Every corpus of this package ends as a `Splits`, so that the rest of the project sees files
    only.

    Args:
        train: list of paths, as strings. May be empty if the corpus is only evaluated.
        valid: list of paths. May be empty.
        test: list of paths. May be empty.
    """

    train: list[str]
    valid: list[str]
    test: list[str]
