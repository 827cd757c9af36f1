import json
import math
import pathlib

import numpy as np
import pytest

from data_pipelines import Grammars, survey, write_grammars

SMALL = {"grammars": 5, "symbols": 7, "successors": 3, "length": 6}


def test_entropy_by_hand():
    # Two equally likely successors: log 4 (grammar) + log 8 (first symbol) + 4 log 2 = 9 log 2,
    # over 2 markers + 5 symbols + </S> = 8 predictions.
    model = Grammars.random(grammars=4, symbols=8, successors=2, length=5, skew=0)
    assert model.predictions == 8
    assert model.entropy == pytest.approx(9 * math.log(2) / 8)
    assert model.perplexity == pytest.approx(2 ** (9 / 8))


def test_entropy_is_the_mean_log_likelihood():
    model = Grammars.random(**SMALL, skew=0.7, seed=3)
    likelihoods = model.log_likelihood(*model.sample(40_000, np.random.default_rng(0)))
    error = likelihoods.std() / math.sqrt(len(likelihoods))
    assert -likelihoods.mean() == pytest.approx(model.sentence_entropy, abs=4 * error)
    assert error < 0.02


def test_probabilities_of_all_sentences_sum_to_one():
    model = Grammars.random(grammars=2, symbols=3, successors=2, length=4)
    chains = np.stack(np.meshgrid(*[np.arange(3)] * 4), -1).reshape(-1, 4)
    total = sum(np.exp(model.log_likelihood(np.full(81, g), chains)).sum() for g in range(2))
    assert total == pytest.approx(1)


def test_tables():
    model = Grammars.random(**SMALL)
    assert model.successors.shape == (5, 7, 3)
    assert all(len(set(row)) == 3 for row in model.successors.reshape(-1, 3).tolist())
    assert len({tuple(pair) for pair in model.markers.tolist()}) == 5
    assert model.markers.max() == 2  # ceil(sqrt(5)) - 1
    assert model.probabilities.sum() == pytest.approx(1)
    assert (np.diff(model.probabilities) < 0).all()


def test_lines():
    model = Grammars.random(grammars=4, symbols=3, successors=1, length=2)
    assert model.lines(np.array([2]), np.array([[0, 2]])) == ["a1 b0 w0 w2"]


def test_files(tmp_path):
    sizes = {"train_sentences": 200, "valid_sentences": 20, "test_sentences": 30}
    splits = write_grammars(tmp_path / "one", **SMALL, **sizes, seed=1)
    for files, count in ((splits.train, 200), (splits.valid, 20), (splits.test, 30)):
        found = survey(files)
        assert (found.sentences, found.tokens) == (count, 8 * count)
    description = json.loads((tmp_path / "one" / "corpus.json").read_text())
    assert description["perplexity"] == pytest.approx(math.exp(description["entropy"]))
    assert description["predictions_per_sentence"] == 9
    assert len(list((tmp_path / "one").iterdir())) == 4

    again = write_grammars(tmp_path / "two", **SMALL, **sizes, seed=1)
    other = write_grammars(tmp_path / "three", **SMALL, **sizes, seed=2)
    texts = [pathlib.Path(each.train[0]).read_text() for each in (splits, again, other)]
    assert texts[0] == texts[1] != texts[2]


def test_a_finished_corpus_is_reused(tmp_path):
    sizes = {"train_sentences": 20, "valid_sentences": 2, "test_sentences": 2}
    [train] = write_grammars(tmp_path, **SMALL, **sizes).train
    train = pathlib.Path(train)
    train.write_text("changed\n")
    write_grammars(tmp_path, **SMALL, **sizes)
    assert train.read_text() == "changed\n"
    write_grammars(tmp_path, **SMALL, **sizes, seed=9)
    assert train.read_text() != "changed\n"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"grammars": 0}, "grammars must be at least 1; it is 0"),
        ({"symbols": 1}, "symbols must be at least 2; it is 1"),
        ({"successors": 8}, "successors must be at most symbols = 7; it is 8"),
        ({"length": 0}, "length must be at least 1; it is 0"),
        ({"skew": -1}, "skew must be at least 0; it is -1"),
        ({"valid_sentences": 0}, "valid_sentences must be at least 1; it is 0"),
    ],
)
def test_arguments_are_checked(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_grammars(tmp_path, **{**SMALL, **change})
