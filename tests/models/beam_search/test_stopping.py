"""When a sentence stops, and which hypotheses it returns."""

import math

import numpy as np
import pytest
import tensorflow as tf
from models.beam_search.searches import RandomTranslator, assert_same, ids_of, search_fixed

from tfmoe.models.beam_search import Hypotheses
from tfmoe.models.beam_search.scoring import Scoring


@pytest.mark.parametrize("beam_size", [1, 2, 4])
@pytest.mark.parametrize("num_best", [1, None])
def test_early_stopping_does_not_change_results(monkeypatch, beam_size, num_best):
    translator = RandomTranslator(60, 4, 6, seed=3, sharpness=3.0)
    num_best = num_best and min(num_best, beam_size)
    steps = []
    step = translator.step
    translator.step = lambda *inputs: steps.append(1) or step(*inputs)

    def search(sentences, alpha, beta):
        return translator.search(
            beam_size, sentences, length_penalty=alpha, coverage_penalty=beta, num_best=num_best
        )

    def searches():
        batches = [search(range(60), *pair) for pair in [(0, 0), (0.2, 0.2), (1.5, 0)]]
        steps.clear()
        return batches, [search([sentence], 0.2, 0.2) for sentence in range(8)], len(steps)

    *early, few_steps = searches()
    monkeypatch.setattr(Scoring, "best_possible", lambda self, p, _: tf.zeros_like(p) + np.inf)
    *late, all_steps = searches()
    for a, b in zip([*early[0], *early[1]], [*late[0], *late[1]], strict=True):
        assert_same(a, b)
    assert few_steps < all_steps == 8 * 6


@pytest.mark.parametrize("beam_size", [1, 3])
def test_result_does_not_depend_on_other_sentences(beam_size):
    translator = RandomTranslator(12, 4, 5, seed=4)
    limits = np.arange(12) % 5 + 1
    batch = translator.search(beam_size, max_length=limits, keep_attention=True)
    for sentence in range(12):
        alone = translator.search(
            beam_size, [sentence], max_length=limits[[sentence]], keep_attention=True
        )
        length = limits[sentence]
        assert alone.ids.shape == (1, beam_size, length)
        truncated = {
            name: getattr(batch, name)[sentence : sentence + 1, :, :length]
            for name in ("ids", "attention")
        }
        rest = {
            name: getattr(batch, name)[sentence : sentence + 1]
            for name in ("lengths", "scores", "log_probabilities")
        }
        assert_same(Hypotheses(**truncated, **rest), alone)
        assert not batch.ids[sentence, :, length:].numpy().any()


def test_live_hypotheses_are_returned_at_max_length_if_none_has_ended():
    # The end is the last of five ids, and the search considers the best four.
    rows = np.log([[1e-30, 0.6, 0.4, 1e-20, 1e-20]] * 4)
    attention = [[0.5, 0.5], [0.25, 0.75], [0.5, 0.5], [0.5, 0.5]]
    result = search_fixed(
        rows,
        attention,
        batch=2,
        beam_size=2,
        max_length=[1, 2],
        length_penalty=1,
        coverage_penalty=0.5,
        source_mask=[[True, True]] * 2,
        keep_attention=True,
    )
    np.testing.assert_array_equal(result.ids, [[[1, 0], [2, 0]], [[1, 1], [1, 2]]])
    np.testing.assert_array_equal(result.lengths, [[1, 1], [2, 2]])
    np.testing.assert_allclose(
        result.log_probabilities, np.log([[0.6, 0.4], [0.36, 0.24]]), rtol=1e-6
    )
    cp = 0.5 * math.log(0.75)  # coverage of 0.75 and of 1.25, clipped to 1
    expected = [
        np.log([0.6, 0.4]) + 0.5 * 2 * math.log(0.5),
        np.log([0.36, 0.24]) / (7 / 6) + cp,
    ]
    np.testing.assert_allclose(result.scores, expected, rtol=1e-6)
    np.testing.assert_allclose(result.attention[0, 0], [[0.5, 0.5], [0, 0]])
    np.testing.assert_allclose(result.attention[1, 1], [[0.5, 0.5], [0.25, 0.75]])


def test_finished_hypotheses_precede_truncated_ones():
    rows = np.log([[0.3, 0.69, 0.01], [1e-30, 0.9, 0.1]])
    result = search_fixed(rows, beam_size=2, length_penalty=0)
    # [1 1] has 0.62 but did not end: the result has one hypothesis and one empty entry.
    assert ids_of(result) == []
    np.testing.assert_allclose(result.scores[0], [math.log(0.3), -np.inf], rtol=1e-6)
    np.testing.assert_array_equal(result.lengths, [[0, 0]])
    assert result.log_probabilities[0, 1] == -np.inf
