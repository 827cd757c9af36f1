import math

import numpy as np
import tensorflow as tf
from models.beam_search.searches import search_fixed, words_of

from tfmoe.models.beam_search.scoring import Scoring


def test_length_penalty_by_hand():
    # id 1 with 0.5, then the end with 0.8: log P = log 0.4 over two symbols, lp = (7 / 6)^0.5.
    rows = np.log([[0.3, 0.5, 0.2], [0.8, 0.1, 0.1]])
    found = search_fixed(rows, beam_size=2, length_penalty=0.5)
    assert words_of(found) == [1] and words_of(found, place=1) == []
    np.testing.assert_allclose(found.log_probabilities[0], np.log([0.4, 0.3]), rtol=1e-6)
    np.testing.assert_allclose(
        found.scores[0], [math.log(0.4) / math.sqrt(7 / 6), math.log(0.3)], rtol=1e-6
    )


def test_coverage_penalty_by_hand():
    # Source of three positions and a padded one. [1] then the end: attention [0.2 0.8 0.5] in all,
    # at the first alone 0.1 0.1 0.3. β = 0.4; the attention to the padding is not looked at.
    rows = np.log([[0.3, 0.7], [0.8, 0.2]])
    attention = [[0.1, 0.1, 0.3, 0.5], [0.1, 0.7, 0.2, 0.0]]
    found = search_fixed(
        rows,
        attention,
        beam_size=2,
        length_penalty=0,
        coverage_penalty=0.4,
        source_mask=[[True, True, True, False]],
    )
    long = math.log(0.56) + 0.4 * (math.log(0.2) + math.log(0.8) + math.log(0.5))
    short = math.log(0.3) + 0.4 * (math.log(0.1) + math.log(0.1) + math.log(0.3))
    assert words_of(found) == [1] and words_of(found, place=1) == []
    np.testing.assert_allclose(found.scores[0], [long, short], rtol=1e-6)


def test_coverage_above_1_counts_as_1():
    rows = np.log([[0.1, 0.9], [0.9, 0.1]])
    found = search_fixed(
        rows,
        [[0.9, 0.1], [0.8, 0.2]],
        beam_size=1,
        length_penalty=0,
        coverage_penalty=1,
        source_mask=[[True, True]],
    )
    # Two steps: 1.7 counts as 1, and 0.3.
    np.testing.assert_allclose(found.scores, [[math.log(0.81) + math.log(0.3)]], rtol=1e-6)


def test_a_position_without_any_attention_leaves_the_scores_finite_and_in_order():
    rows = np.log([[0.3, 0.5, 0.2], [0.8, 0.1, 0.1]])
    attention = [[1.0, 0.0], [1.0, 0.0]]
    found = search_fixed(rows, attention, beam_size=2, source_mask=[[True, True]])
    assert np.isfinite(found.scores).all()
    assert words_of(found) == [1]


def test_the_bound_of_a_live_hypothesis():
    # log P = -3 and at most 7 symbols: -3 / (12 / 6)^2. The coverage is left out.
    scoring = Scoring(2.0, 0.5, tf.constant([[True]]))
    bound = scoring.best_possible(tf.constant([-3.0]), tf.constant([7]))
    np.testing.assert_allclose(bound, [-0.75])
