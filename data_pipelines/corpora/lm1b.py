"""The 1 Billion Word benchmark (Chelba et al., 2013) as it is unpacked.

    root/
      training-monolingual.tokenized.shuffled/news.en-00001-of-00100 … news.en-00099-of-00100
      heldout-monolingual.tokenized.shuffled/news.en.heldout-00000-of-00050 …
      news.en.heldout-00049-of-00050

The first held-out file is the test set of the published results, the second is for validation here.
"""

import dataclasses
import os
import pathlib

from tfmoe.data_pipelines.corpora.corpus import LanguageCorpus
from tfmoe.data_pipelines.reading import TextError
from tfmoe.data_pipelines.splits import Splits

TRAINING = "training-monolingual.tokenized.shuffled"
HELD_OUT = "heldout-monolingual.tokenized.shuffled"
TEST_SENTENCES, TEST_WORDS = 6_075, 153_583  # of news.en.heldout-00000-of-00050


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lm1b(LanguageCorpus):
    """The 1 Billion Word benchmark.

    Args:
        root: the directory that has `training-monolingual.tokenized.shuffled`.
    """

    root: str

    def splits(self, directory):
        return Splits(
            train=self._part(TRAINING, "news.en-*"),
            valid=self._part(HELD_OUT, "news.en.heldout-00001-of-00050*"),
            test=self._part(HELD_OUT, "news.en.heldout-00000-of-00050*"),
        )

    def _part(self, directory, pattern):
        """Returns the files of one part, plain or with `.gz`."""
        root = pathlib.Path(os.path.expanduser(self.root))
        files = sorted(str(file) for file in (root / directory).glob(pattern))
        if not files:
            raise TextError(
                f"{root / directory / pattern}: no such file. The 1 Billion Word root must hold"
                f" {TRAINING}/news.en-* and {HELD_OUT}/news.en.heldout-*-of-00050"
            )
        return files

    def check_surveys(self, surveys):
        """A test text with the sentence count of the published one must have its word count too."""
        test = surveys["test"]
        if test.sentences != TEST_SENTENCES:
            return []
        if test.tokens != TEST_WORDS:
            raise TextError(
                f"the 1 Billion Word test set has {TEST_WORDS:,} words in {TEST_SENTENCES:,}"
                f" sentences; this one has {test.tokens:,} words: it was changed or tokenised"
                " again, and perplexities would not compare"
            )
        return ["the test text has the sentences and words of the published one"]
