import math

import numpy as np
import tensorflow as tf
from models.beam_search.searches import ids_of, search_fixed

from tfmoe.models.beam_search.scoring import Scoring


def test_length_penalty_by_hand():
    # id 1 with 0.5, then the end with 0.8: log P = log 0.4, two symbols, lp = (7 / 6)^0.5.
    rows = np.log([[0.3, 0.5, 0.2], [0.8, 0.1, 0.1]])
    result = search_fixed(rows, beam_size=2, length_penalty=0.5)
    assert ids_of(result) == [1] and ids_of(result, rank=1) == []
    np.testing.assert_allclose(result.log_probabilities[0], np.log([0.4, 0.3]), rtol=1e-6)
    np.testing.assert_allclose(
        result.scores[0], [math.log(0.4) / math.sqrt(7 / 6), math.log(0.3)], rtol=1e-6
    )


def test_coverage_penalty_by_hand():
    # Three source positions and one of padding. Coverage of [1] and its end: 0.2 0.8 0.5. Coverage
    # of the empty translation's end: 0.1 0.1 0.3. β = 0.4; padding is ignored.
    rows = np.log([[0.3, 0.7], [0.8, 0.2]])
    attention = [[0.1, 0.1, 0.3, 0.5], [0.1, 0.7, 0.2, 0.0]]
    result = search_fixed(
        rows,
        attention,
        beam_size=2,
        length_penalty=0,
        coverage_penalty=0.4,
        source_mask=[[True, True, True, False]],
    )
    long = math.log(0.56) + 0.4 * (math.log(0.2) + math.log(0.8) + math.log(0.5))
    short = math.log(0.3) + 0.4 * (math.log(0.1) + math.log(0.1) + math.log(0.3))
    assert ids_of(result) == [1] and ids_of(result, rank=1) == []
    np.testing.assert_allclose(result.scores[0], [long, short], rtol=1e-6)


def test_coverage_above_1_counts_as_1():
    rows = np.log([[0.1, 0.9], [0.9, 0.1]])
    result = search_fixed(
        rows,
        [[0.9, 0.1], [0.8, 0.2]],
        beam_size=1,
        length_penalty=0,
        coverage_penalty=1,
        source_mask=[[True, True]],
    )
    # Two steps cover 1.7, clipped to 1, and 0.3.
    np.testing.assert_allclose(result.scores, [[math.log(0.81) + math.log(0.3)]], rtol=1e-6)


def test_scores_are_finite_and_ordered_with_an_unattended_position():
    rows = np.log([[0.3, 0.5, 0.2], [0.8, 0.1, 0.1]])
    attention = [[1.0, 0.0], [1.0, 0.0]]
    result = search_fixed(rows, attention, beam_size=2, source_mask=[[True, True]])
    assert np.isfinite(result.scores).all()
    assert ids_of(result) == [1]


def test_upper_bound_of_a_live_hypothesis():
    # log P = -3 and at most 7 symbols: -3 / (12 / 6)^2. The coverage penalty is at most 0.
    scoring = Scoring(2.0, 0.5, tf.constant([[True]]))
    bound = scoring.best_possible(tf.constant([-3.0]), tf.constant([7]))
    np.testing.assert_allclose(bound, [-0.75])
