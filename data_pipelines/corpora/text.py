"""Text files of one's own."""

import dataclasses

from tfmoe.data_pipelines.corpora.corpus import LanguageCorpus, without_items
from tfmoe.data_pipelines.splits import Splits
from tfmoe.data_pipelines.text import find_files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text(LanguageCorpus):
    """Text files, one sentence a line, plain or gzip.

    Args:
        train, valid, test: paths or globs, from the directory where the command is run. Only
            `train` must have some.
    """

    train: list[str]
    valid: list[str] = dataclasses.field(default_factory=list)
    test: list[str] = dataclasses.field(default_factory=list)

    def problems(self):
        return without_items(train=self.train)

    def splits(self, directory):
        parts = (self.train, self.valid, self.test)
        return Splits(*(find_files(patterns) if patterns else [] for patterns in parts))
