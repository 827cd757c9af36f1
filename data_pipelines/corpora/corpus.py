"""Base classes of all corpora."""

import abc
import dataclasses
from typing import Any, ClassVar

from tfmoe.data_pipelines.corpora.converted import as_parallel_text, files_as_text
from tfmoe.data_pipelines.parallel_files import ParallelFiles, find_parallel
from tfmoe.data_pipelines.records.files import reader_of
from tfmoe.data_pipelines.splits import Splits
from tfmoe.data_pipelines.text import Survey, find_files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that check themselves.

    A subclass is a frozen dataclass with keyword-only fields. A field is a number, text or boolean,
    a list of text, or other `Settings` or a list of them.

    Raises:
        ValueError: if a setting is out of its range: a line for each, which begins with the
            setting's name.
    """

    def __post_init__(self):
        problems = list(self.problems())
        if problems:
            raise ValueError("\n".join(problems))

    def problems(self):
        """Yields a message for each wrong setting, which begins with the setting's name, such as
        `"pairs[1] must be …"`.
        """
        return iter(())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus(Settings, abc.ABC):
    """A corpus: where its text is, or how it is made. Its fields are its settings.

    A corpus that is made anew writes the same text for the same settings.

    Attributes:
        kind: `"language"` for sentences, `"parallel"` for sentences and their translations.
        tokenization: how its text became tokens: `"text"` if this project split running text into
            words, `"words"` if the words were separated by white space already, `"subwords"` if the
            text is split by a subword vocabulary.
        generated: whether `splits` makes the text from the settings only, so that none can be
            missing.
    """

    kind: ClassVar[str]
    tokenization: ClassVar[str]
    generated: ClassVar[bool] = False

    def cache_settings(self) -> dict[str, Any]:
        """Returns what decides where in the cache written text lies, for JSON: corpora with equal
        values share a directory.
        """
        return dataclasses.asdict(self)

    @abc.abstractmethod
    def splits(self, directory) -> Splits:
        """Finds the files, or writes text into the cache, unless it is there already.

        Args:
            directory: where text is written; of this corpus, and those with the same
                `cache_settings`, alone. Made if missing.

        Returns:
            A `Splits`.

        Raises:
            TextError: if files are missing.
        """


class LanguageCorpus(Corpus):
    """A corpus of sentences: its `Splits` are of paths."""

    kind = "language"
    tokenization = "words"

    def find_files(self, patterns, directory) -> list[str]:
        """Finds further files, to evaluate on.

        Args:
            patterns: a path or glob or a list of them: of text, or, by their ending, of JSON lines
                or Parquet, whose text is in the column `text`.
            directory: as for `splits`.

        Raises:
            TextError: if files are missing, or are no such files.
        """
        return files_as_text(patterns, directory)

    def check_surveys(self, surveys: dict[str, Survey]) -> list[str]:
        """Checks the statistics of the whole text.

        Args:
            surveys: `{"train": Survey, …}`, of the parts that are not empty.

        Returns:
            Lines to print about it: list of strings.

        Raises:
            TextError: if the text is not what this corpus is known to be.
        """
        return []


class ParallelCorpus(Corpus):
    """A corpus of sentences and their translations: its `Splits` are of `ParallelFiles`, one for
    each direction of translation.

    Attributes:
        empty_sides: what to do with a pair of which a side is blank: `"error"`, or `"skip"` for
            text that is published with such pairs.
    """

    kind = "parallel"
    tokenization = "subwords"
    empty_sides: ClassVar[str] = "error"

    @property
    @abc.abstractmethod
    def language_pairs(self):
        """The directions of translation, without repetitions: `[("en", "fr"), …]`, source first."""

    def columns_of(self, pair) -> dict[str, list[str]]:
        """Returns the columns of records that hold the sentences of a pair of languages.

        Args:
            pair: `(source, target)`.

        Returns:
            `{setting: names to look for, the first that is there is taken}`.
        """
        sides = zip(("source_column", "target_column"), pair, strict=True)
        return {setting: [language, f"translation.{language}"] for setting, language in sides}

    def find_files(self, patterns, pair, directory) -> ParallelFiles:
        """Finds further files, to evaluate on.

        Args:
            patterns: list of prefixes of text files, as for `find_parallel`, or of paths or globs
                of JSON lines or Parquet, by their ending.
            pair: `(source, target)`, one of `language_pairs`.
            directory: as for `splits`.

        Raises:
            TextError: if files are missing, or are no such files.
        """
        of_records = [pattern for pattern in patterns if reader_of(pattern)]
        prefixes = [pattern for pattern in patterns if not reader_of(pattern)]
        text_pairs = find_parallel(prefixes, *pair).file_pairs if prefixes else []
        records = [reader_of(path)(path) for path in find_files(of_records)] if of_records else []
        return self.files_of_records(records, pair, directory, text_pairs)

    def files_of_records(self, records, pair, directory, text_pairs=()) -> ParallelFiles:
        """Writes records as text, unless it is there.

        Args:
            records: list of `Records`.
            pair: `(source, target)`.
            directory: as for `splits`.
            text_pairs: pairs of paths of text files, which come first.
        """
        columns = self.columns_of(pair)
        pairs = [
            as_parallel_text(part, directory, columns, pair, self.empty_sides) for part in records
        ]
        sources, targets = map(list, zip(*text_pairs, *pairs, strict=True))
        return ParallelFiles(sources, targets, *pair)

    @property
    def target_languages(self):
        """The languages that a source must ask for with a symbol: sorted, none for one
        direction.
        """
        pairs = self.language_pairs
        return sorted({target for _, target in pairs}) if len(pairs) > 1 else []


def below(least, **settings):
    """Yields a problem for each setting that is less than `least`."""
    for name, value in settings.items():
        if value < least:
            yield f"{name} must be at least {least}, got {value}"


def not_a_seed(seed):
    """Yields a problem if `seed` is out of the range of seeds."""
    if not 0 <= seed < 2**31:
        yield f"seed must be at least 0 and below {2**31}, got {seed}"


def without_items(**settings):
    """Yields a problem for each list that is empty."""
    for name, value in settings.items():
        if not value:
            yield f"{name} must be a list of at least one item, got {value!r}"


def not_two_languages(settings):
    """Yields a problem if `settings` has one language as source and target."""
    language = settings.target_language
    if language is not None and settings.source_language == language:
        yield f"target_language must differ from source_language, got {language!r}"
