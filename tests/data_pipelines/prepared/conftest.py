"""Text of a language model, for the tests of prepared text."""

import random

import pytest

from tfmoe.data_pipelines import Vocabulary, survey


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Three files, 300 sentences of 1 to 40 words: "s20w3", and in each "often"."""
    folder, draw = tmp_path_factory.mktemp("corpus"), random.Random(1)
    for file in range(3):
        lines = (
            " ".join(f"s{100 * file + line}w{word}" for word in range(draw.randint(1, 39)))
            for line in range(100)
        )
        (folder / f"{file}.txt").write_text("".join(f"{line} often\n\n" for line in lines))
    return sorted(map(str, folder.glob("*.txt")))


@pytest.fixture(scope="module")
def vocabulary(corpus):
    return Vocabulary.from_counts(survey(corpus).words)
