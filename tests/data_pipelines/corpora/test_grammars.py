import json
import math
import pathlib

import pytest

from tfmoe.data_pipelines import survey
from tfmoe.data_pipelines.corpora.grammars import Grammars

SMALL = {"grammars": 5, "symbols": 7, "successors": 3, "length": 6}


def test_files(tmp_path):
    sizes = {"train_sentences": 200, "valid_sentences": 20, "test_sentences": 30}
    splits = Grammars(**SMALL, **sizes, seed=1).splits(tmp_path / "one")
    for files, count in ((splits.train, 200), (splits.valid, 20), (splits.test, 30)):
        found = survey(files)
        assert (found.sentences, found.tokens) == (count, 8 * count)
    description = json.loads((tmp_path / "one" / "corpus.json").read_text())
    assert description["perplexity"] == pytest.approx(math.exp(description["entropy"]))
    assert description["predictions_per_sentence"] == 9
    assert len(list((tmp_path / "one").iterdir())) == 4

    again = Grammars(**SMALL, **sizes, seed=1).splits(tmp_path / "two")
    other = Grammars(**SMALL, **sizes, seed=2).splits(tmp_path / "three")
    texts = [pathlib.Path(each.train[0]).read_text() for each in (splits, again, other)]
    assert texts[0] == texts[1] != texts[2]


def test_a_finished_corpus_is_reused(tmp_path):
    sizes = {"train_sentences": 20, "valid_sentences": 2, "test_sentences": 2}
    [train] = Grammars(**SMALL, **sizes).splits(tmp_path).train
    train = pathlib.Path(train)
    train.write_text("changed\n")
    Grammars(**SMALL, **sizes).splits(tmp_path)
    assert train.read_text() == "changed\n"
    Grammars(**SMALL, **sizes, seed=9).splits(tmp_path)
    assert train.read_text() != "changed\n"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"grammars": 0}, "grammars must be at least 1, got 0"),
        ({"symbols": 1}, "symbols must be at least 2, got 1"),
        ({"symbols": 10**6}, "symbols must be at most 8192, got 1000000"),
        ({"grammars": 10**9}, "grammars must be at most 1369568 for symbols=7"),
        ({"successors": 8}, "successors must be at most symbols=7, got 8"),
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"skew": -1}, "skew must be at least 0, got -1"),
        ({"seed": 2**31}, "seed must be at least 0 and below 2147483648, got 2147483648"),
        ({"valid_sentences": 0}, "valid_sentences must be at least 1, got 0"),
    ],
)
def test_settings_are_checked(change, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Grammars(**{**SMALL, **change})
