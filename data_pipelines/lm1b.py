"""The 1 Billion Word benchmark (Chelba et al., 2013) as it is unpacked.

    root/
      training-monolingual.tokenized.shuffled/news.en-00001-of-00100 … news.en-00099-of-00100
      heldout-monolingual.tokenized.shuffled/news.en.heldout-00000-of-00050 …
      news.en.heldout-00049-of-00050

The first held-out file is the test set of the published results, the second is for validation here.
"""

import os
import pathlib

from data_pipelines.splits import Splits
from data_pipelines.text import TextError

TRAINING = "training-monolingual.tokenized.shuffled"
HELD_OUT = "heldout-monolingual.tokenized.shuffled"
TEST_SENTENCES, TEST_WORDS = 6_075, 153_583  # of news.en.heldout-00000-of-00050


def lm1b_splits(root):
    """Finds the files of the benchmark.

    Args:
        root: the directory that has the two directories above.

    Returns:
        `Splits`: all training files, held-out file 00001 for validation, 00000 for the test.

    Raises:
        TextError: if a part is missing, with the layout that is expected.
    """
    root = pathlib.Path(os.path.expanduser(root))
    return Splits(
        train=_part(root, TRAINING, "news.en-*"),
        valid=_part(root, HELD_OUT, "news.en.heldout-00001-of-00050*"),
        test=_part(root, HELD_OUT, "news.en.heldout-00000-of-00050*"),
    )


def _part(root, directory, pattern):
    """Returns the files of one part, plain or with `.gz`."""
    files = sorted(str(file) for file in (root / directory).glob(pattern))
    if not files:
        raise TextError(
            f"{root / directory / pattern}: no such file. The 1 Billion Word root must hold"
            f" {TRAINING}/news.en-* and {HELD_OUT}/news.en.heldout-*-of-00050"
        )
    return files


def check_test_counts(survey):
    """Checks that a test set that looks like the published one is the published one.

    Args:
        survey: `survey(splits.test)`.

    Returns:
        True if it is the published test set, False if it is another text (not 6,075 sentences).

    Raises:
        TextError: if it has the sentences of the published test set but not its words.
    """
    if survey.sentences != TEST_SENTENCES:
        return False
    if survey.tokens != TEST_WORDS:
        raise TextError(
            f"the 1 Billion Word test set has {TEST_WORDS:,} words in {TEST_SENTENCES:,} sentences;"
            f" this one has {survey.tokens:,} words: it was changed or tokenised again, and"
            " perplexities would not compare"
        )
    return True
