"""Parallel text files."""

import dataclasses

from tfmoe.data_pipelines.corpora.corpus import (
    ParallelCorpus,
    Settings,
    not_two_languages,
    without_items,
)
from tfmoe.data_pipelines.parallel_files import find_parallel
from tfmoe.data_pipelines.splits import Splits

OF_ONE_DIRECTION = ("source_language", "target_language", "train")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Direction(Settings):
    """One of several directions of translation.

    Args:
        source_language, target_language, train, valid, test: as of `Parallel`.
        weight: how often training reads these pairs, as a multiple of their natural share.
    """

    source_language: str
    target_language: str
    train: list[str]
    valid: list[str] = dataclasses.field(default_factory=list)
    test: list[str] = dataclasses.field(default_factory=list)
    weight: float = 1.0

    def problems(self):
        yield from without_items(train=self.train)
        yield from not_two_languages(self)
        if not self.weight > 0:
            yield f"weight must be a number above 0, got {self.weight:g}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parallel(ParallelCorpus):
    """Parallel text, one sentence a line, plain or gzip; line i of the one file belongs to line i
    of the other.

    Args:
        train, valid, test: the files' common prefixes, or globs of them: `PREFIX.de` and
            `PREFIX.en`, or with `.gz` after it.
        source_language, target_language: the endings of the files, such as de and en.
        directions: instead of these settings, several directions for one multilingual model; see
            `Direction`. A symbol for the target language then begins each source.
    """

    train: list[str] = dataclasses.field(default_factory=list)
    valid: list[str] = dataclasses.field(default_factory=list)
    test: list[str] = dataclasses.field(default_factory=list)
    source_language: str | None = None
    target_language: str | None = None
    directions: list[Direction] = dataclasses.field(default_factory=list)

    def problems(self):
        if not self.directions:
            for name in OF_ONE_DIRECTION:
                if not getattr(self, name):
                    yield f"{name} is missing; or give the key directions for several"
            yield from not_two_languages(self)
            return
        for name in (*OF_ONE_DIRECTION, "valid", "test"):
            if getattr(self, name):
                yield f"{name} must not be given beside directions, which have their own"

    @property
    def _directions(self):
        if self.directions:
            return self.directions
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del settings["directions"]
        return [Direction(**settings)]

    @property
    def language_pairs(self):
        directions = self._directions
        pairs = ((one.source_language, one.target_language) for one in directions)
        return list(dict.fromkeys(pairs))

    def splits(self, directory):
        return Splits(*map(self._part, ("train", "valid", "test")))

    def _part(self, part):
        """Returns the `ParallelFiles` of each direction that has such a part."""
        return [
            find_parallel(
                getattr(direction, part),
                direction.source_language,
                direction.target_language,
                weight=direction.weight if part == "train" else 1.0,
            )
            for direction in self._directions
            if getattr(direction, part)
        ]
