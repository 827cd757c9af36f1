import math

import numpy as np
import pytest

from tfmoe.data_pipelines.grammar_tables import GrammarTables

SMALL = {"grammars": 5, "symbols": 7, "successors": 3, "length": 6}


def test_entropy_by_hand():
    # Two equally likely successors: log 4 (grammar) + log 8 (first symbol) + 4 log 2 = 9 log 2,
    # over 2 markers + 5 symbols + </S> = 8 predictions.
    model = GrammarTables.random(grammars=4, symbols=8, successors=2, length=5, skew=0)
    assert model.predictions == 8
    assert model.entropy == pytest.approx(9 * math.log(2) / 8)
    assert model.perplexity == pytest.approx(2 ** (9 / 8))


def test_entropy_is_the_mean_log_likelihood():
    model = GrammarTables.random(**SMALL, skew=0.7, seed=3)
    likelihoods = model.log_likelihood(*model.sample(40_000, np.random.default_rng(0)))
    error = likelihoods.std() / math.sqrt(len(likelihoods))
    assert -likelihoods.mean() == pytest.approx(model.sentence_entropy, abs=4 * error)
    assert error < 0.02


def test_probabilities_of_all_sentences_sum_to_one():
    model = GrammarTables.random(grammars=2, symbols=3, successors=2, length=4)
    chains = np.stack(np.meshgrid(*[np.arange(3)] * 4), -1).reshape(-1, 4)
    total = sum(np.exp(model.log_likelihood(np.full(81, g), chains)).sum() for g in range(2))
    assert total == pytest.approx(1)


def test_tables():
    model = GrammarTables.random(**SMALL)
    assert model.successors.shape == (5, 7, 3)
    assert all(len(set(row)) == 3 for row in model.successors.reshape(-1, 3).tolist())
    assert len({tuple(pair) for pair in model.markers.tolist()}) == 5
    assert model.markers.max() == 2  # ceil(sqrt(5)) - 1
    assert model.probabilities.sum() == pytest.approx(1)
    assert (np.diff(model.probabilities) < 0).all()


def test_lines():
    model = GrammarTables.random(grammars=4, symbols=3, successors=1, length=2)
    assert model.lines(np.array([2]), np.array([[0, 2]])) == ["a1 b0 w0 w2"]
