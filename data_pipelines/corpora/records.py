"""Base classes of corpora of records: their settings, and the conversion to `Splits`.

A corpus inherits from a class of this module, for language models or translation, and from a class
that locates the records (`files_of_records`, `huggingface`, `tfds`).
"""

import abc
import dataclasses
from typing import Literal

from tfmoe.data_pipelines.corpora.converted import as_text, files_as_text
from tfmoe.data_pipelines.corpora.corpus import LanguageCorpus, ParallelCorpus, not_two_languages
from tfmoe.data_pipelines.records.records import Records
from tfmoe.data_pipelines.splits import Splits

PARTS = ("train", "valid", "test")


class HasRecords(abc.ABC):
    """A corpus whose text is in columns of records."""

    @abc.abstractmethod
    def records(self, part: str) -> list[Records]:
        """Returns the records of `"train"`, `"valid"` or `"test"`; `[]` if there are none.

        Raises:
            TextError: if they are missing or cannot be loaded.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageRecords(LanguageCorpus, HasRecords):
    """The text of a column of records, for language models.

    The text of a record is a document: its lines are lines of the corpus. Records without text are
    skipped.

    Args:
        column: name of the column, a nested one as `document.text`.
        tokenization: `words` if white space separates the words of the text, `text` to split
            running text into lower-case words, numbers and punctuation marks.
    """

    column: str = "text"
    tokenization: Literal["words", "text"] = "words"  # type: ignore[misc]

    def cache_settings(self):
        return {"column": self.column, "tokenization": self.tokenization}

    def find_files(self, patterns, directory):
        return files_as_text(patterns, directory, self.column, self.tokenization)

    def splits(self, directory):
        def part(name):
            return [
                as_text(records, directory, {"column": [self.column]}, self.tokenization)
                for records in self.records(name)
            ]

        return Splits(*map(part, PARTS))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParallelRecords(ParallelCorpus, HasRecords):
    """Sentences and their translations in two columns of records.

    Args:
        source_language, target_language: names of the languages, such as de and en.
        source_column, target_column: names of the columns; null for the language's name, or
            `translation.LANGUAGE`.
        empty_sides: what to do if one side of a record is empty, error or skip.
    """

    source_language: str
    target_language: str
    source_column: str | None = None
    target_column: str | None = None
    empty_sides: Literal["error", "skip"] = "error"  # type: ignore[misc]

    def problems(self):
        yield from not_two_languages(self)

    def cache_settings(self):
        return {
            "languages": self.language_pairs[0],
            "columns": [self.source_column, self.target_column],
            "empty_sides": self.empty_sides,
        }

    @property
    def language_pairs(self):
        return [(self.source_language, self.target_language)]

    def columns_of(self, pair):
        columns = super().columns_of(pair)
        for setting in columns:
            if chosen := getattr(self, setting):
                columns[setting] = [chosen]
        return columns

    def splits(self, directory):
        def part(name):
            records, (pair,) = self.records(name), self.language_pairs
            return [self.files_of_records(records, pair, directory)] if records else []

        return Splits(*map(part, PARTS))
