"""Files of parallel text: line n of one file is the translation of line n of the other."""

import dataclasses
import glob
import os
from collections.abc import Sequence

from tfmoe.data_pipelines.reading import TextError, check_file


@dataclasses.dataclass(frozen=True)
class ParallelFiles:
    """Text of one pair of languages, in one direction of translation.

    Args:
        source: list of paths, as strings. File i belongs to file i of `target`.
        target: list of paths.
        source_language: name of the source's language, such as "en".
        target_language: name of the target's language, such as "fr".
        weight: how often training reads these pairs, as a multiple of their natural share.

    Raises:
        ValueError: if the lists are not of one length, or the weight is not more than 0.
    """

    source: list[str]
    target: list[str]
    source_language: str
    target_language: str
    weight: float = 1.0

    def __post_init__(self):
        if len(self.source) != len(self.target):
            raise ValueError(
                f"source and target must have equally many files, got {len(self.source)} and"
                f" {len(self.target)}"
            )
        if not self.weight > 0:
            raise ValueError(f"weight must be a number above 0, got {self.weight:g}")

    @property
    def direction(self) -> str:
        """`"en-fr"`, source first."""
        return f"{self.source_language}-{self.target_language}"

    @property
    def file_pairs(self) -> list[tuple[str, str]]:
        """List of `(source path, target path)`."""
        return list(zip(self.source, self.target, strict=True))


def find_parallel(
    prefixes: str | os.PathLike | Sequence[str | os.PathLike],
    source_language: str,
    target_language: str,
    weight: float = 1.0,
) -> ParallelFiles:
    """Finds the files `PREFIX.de` and `PREFIX.en`, or `PREFIX.de.gz` and `PREFIX.en.gz`.

    Args:
        prefixes: a prefix or a glob of prefixes, such as `wmt/training/*.de-en`, or a list of them.
            `~` is the home directory. Files of a glob are sorted.
        source_language: ending of the source files, such as "de".
        target_language: ending of the target files.
        weight: of the `ParallelFiles`.

    Returns:
        A `ParallelFiles`.

    Raises:
        TextError: if a file is missing, naming it; if a glob matches nothing, or the list is empty.
    """
    if isinstance(prefixes, (str, os.PathLike)):
        prefixes = [prefixes]
    if not prefixes:
        raise TextError("no parallel text given: give at least one prefix or glob")
    pairs, languages = {}, (source_language, target_language)
    for prefix in prefixes:
        for path in _expand(os.path.expanduser(os.fspath(prefix)), languages):
            pairs[path] = tuple(_side(path, language) for language in languages)
    sources, targets = zip(*pairs.values(), strict=True)
    return ParallelFiles(list(sources), list(targets), source_language, target_language, weight)


def _expand(prefix, languages):
    """Returns the prefixes that a prefix or glob names."""
    if not glob.has_magic(prefix) or any(_existing(f"{prefix}.{name}") for name in languages):
        return [prefix]
    matches = set()
    for language in languages:
        for ending in (f".{language}", f".{language}.gz"):
            matches.update(path.removesuffix(ending) for path in glob.glob(prefix + ending))
    if not matches:
        names = " or ".join(f"{prefix}.{name}[.gz]" for name in languages)
        raise TextError(f"{prefix}: no file matches {names} (looked from {os.getcwd()})")
    return sorted(matches)


def _existing(path):
    """Returns the path or, if only that exists, the path with `.gz`; `None` if neither does."""
    return next((name for name in (path, path + ".gz") if os.path.lexists(name)), None)


def _side(prefix, language):
    path = f"{prefix}.{language}"
    existing = _existing(path)
    if existing is None:
        raise TextError(f"{path}: no such file, nor {path}.gz (looked from {os.getcwd()})")
    check_file(existing)
    return existing


def without_reversed(files_list: Sequence[ParallelFiles]) -> list[ParallelFiles]:
    """Returns a list of `ParallelFiles` without those that are an earlier one reversed."""
    kept: dict[frozenset, ParallelFiles] = {}
    for files in files_list:
        sides = (
            (files.source_language, tuple(files.source)),
            (
                files.target_language,
                tuple(files.target),
            ),
        )
        kept.setdefault(frozenset(sides), files)
    return list(kept.values())


def by_direction(files_list: Sequence[ParallelFiles]) -> dict[str, list[ParallelFiles]]:
    """Returns `{"en-fr": [ParallelFiles, …], …}` of a list of them."""
    directions: dict[str, list[ParallelFiles]] = {}
    for files in files_list:
        directions.setdefault(files.direction, []).append(files)
    return directions
