"""Files of records: JSON lines and Parquet."""

import dataclasses
from typing import ClassVar

from tfmoe.data_pipelines.corpora.corpus import without_items
from tfmoe.data_pipelines.corpora.records import HasRecords, LanguageRecords, ParallelRecords
from tfmoe.data_pipelines.records.json_lines import JsonLines
from tfmoe.data_pipelines.records.parquet import Parquet
from tfmoe.data_pipelines.text import find_files


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilesOfRecords(HasRecords):
    """The paths of files of records.

    Args:
        train, valid, test: paths or globs, from the directory where the command is run. Only
            `train` is required.
    """

    reader: ClassVar[type]

    train: list[str]
    valid: list[str] = dataclasses.field(default_factory=list)
    test: list[str] = dataclasses.field(default_factory=list)

    def problems(self):
        yield from without_items(train=self.train)
        yield from super().problems()

    def records(self, part):
        patterns = getattr(self, part)
        return [self.reader(path) for path in find_files(patterns)] if patterns else []


@dataclasses.dataclass(frozen=True, kw_only=True)
class JsonLinesText(FilesOfRecords, LanguageRecords):
    """JSON lines, one object per line, plain or gzip (`.gz`).

    The text of a record is a document: its lines are lines of the corpus. Records without text are
    skipped. The text is written once, as plain lines, into the cache.

    Args:
        train, valid, test: paths or globs, from the directory where the command is run. Only
            `train` is required.
        column: key of the text in each object, a nested one as `document.text`.
        tokenization: `words` if white space separates the words of the text, `text` to split
            running text into lower-case words, numbers and punctuation marks.
    """

    reader = JsonLines


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParquetText(FilesOfRecords, LanguageRecords):
    """Parquet files; needs pyarrow.

    The text of a record is a document: its lines are lines of the corpus. Records without text are
    skipped. The text is written once, as plain lines, into the cache.

    Args:
        train, valid, test: paths or globs, from the directory where the command is run. Only
            `train` is required.
        column: name of the column, a nested one as `document.text`.
        tokenization: `words` if white space separates the words of the text, `text` to split
            running text into lower-case words, numbers and punctuation marks.
    """

    reader = Parquet


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParallelJsonLines(FilesOfRecords, ParallelRecords):
    """JSON lines with a sentence and its translation in each object, plain or gzip (`.gz`).

    Args:
        train, valid, test: paths or globs, from the directory where the command is run. Only
            `train` is required.
        source_language, target_language: names of the languages, such as de and en.
        source_column, target_column: keys of the texts in each object; null for the language's
            name, or `translation.LANGUAGE`.
        empty_sides: what to do if one side of a record is empty, error or skip.
    """

    reader = JsonLines


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParallelParquet(FilesOfRecords, ParallelRecords):
    """Parquet files with a sentence and its translation in two columns; needs pyarrow.

    Args:
        train, valid, test: paths or globs, from the directory where the command is run. Only
            `train` is required.
        source_language, target_language: names of the languages, such as de and en.
        source_column, target_column: names of the columns; null for the language's name, or
            `translation.LANGUAGE`.
        empty_sides: what to do if one side of a record is empty, error or skip.
    """

    reader = Parquet
