"""Text files."""

import dataclasses
from typing import Literal

from tfmoe.data_pipelines.corpora.converted import files_as_text
from tfmoe.data_pipelines.corpora.corpus import LanguageCorpus, without_items
from tfmoe.data_pipelines.reading import TextError
from tfmoe.data_pipelines.records.files import reader_of
from tfmoe.data_pipelines.records.parquet import Parquet
from tfmoe.data_pipelines.splits import Splits
from tfmoe.data_pipelines.text import find_files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text(LanguageCorpus):
    """Text files, one sentence a line, plain or gzip.

    Args:
        train, valid, test: paths or globs, from the directory where the command is run. Only
            `train` must have some.
        tokenization: `words` if white space separates the words of the text, `text` to split
            running text into lower-case words, numbers and punctuation marks; that is written once
            into the cache.
    """

    train: list[str]
    valid: list[str] = dataclasses.field(default_factory=list)
    test: list[str] = dataclasses.field(default_factory=list)
    tokenization: Literal["words", "text"] = "words"  # type: ignore[misc]

    def problems(self):
        return without_items(train=self.train)

    def cache_settings(self):
        return {"tokenization": self.tokenization}

    def find_files(self, patterns, directory):
        return files_as_text(patterns, directory, tokenization=self.tokenization)

    def splits(self, directory):
        return Splits(
            *(
                self._part(patterns, directory) if patterns else []
                for patterns in (self.train, self.valid, self.test)
            )
        )

    def _part(self, patterns, directory):
        """Returns the text of files, of which none may be of records."""
        for path in find_files(patterns):
            if reader := reader_of(path):
                name = "parquet" if reader is Parquet else "json_lines"
                raise TextError(f"{path}: is no plain text by its ending; set data.name: {name}")
        return self.find_files(patterns, directory)
