"""The hypotheses that a search returns, and their order."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from models.beam_search.searches import (
    END,
    RandomTranslator,
    assert_same,
    ids_of,
    search,
    search_fixed,
)

from tfmoe.models.beam_search import Hypotheses


@pytest.mark.parametrize("markov", [False, True])
@pytest.mark.parametrize(("alpha", "beta"), [(0, 0), (0.2, 0.2), (1, 0), (0, 1), (2, 0.5)])
def test_wide_beam_equals_exhaustive_search(alpha, beta, markov):
    # 27 prefixes of three words have 108 candidates at step 4: none is dropped.
    translator = RandomTranslator(6, 4, 4, seed=round(10 * alpha + beta), markov=markov)
    result = translator.search(
        108, num_best=40, length_penalty=alpha, coverage_penalty=beta, keep_attention=True
    )
    for sentence in range(6):
        expected = translator.exhaustive(sentence, alpha, beta)
        assert len(expected) == 40
        np.testing.assert_allclose(result.scores[sentence], [s for s, _, _ in expected], rtol=1e-5)
        np.testing.assert_allclose(
            result.log_probabilities[sentence], [p for _, p, _ in expected], rtol=1e-5
        )
        for rank, (_, _, ids) in enumerate(expected):
            assert ids_of(result, sentence, rank) == list(ids)
            assert not result.ids[sentence, rank, len(ids) :].numpy().any()
            maps = result.attention[sentence, rank].numpy()
            _, coverage = translator.walk(sentence, [*ids, END])
            np.testing.assert_allclose(maps.sum(0), coverage, rtol=1e-5)
            assert not maps[len(ids) + 1 :].any()


@pytest.mark.parametrize("num_best", [1, 3])
def test_smaller_num_best_returns_the_first_hypotheses(num_best):
    translator = RandomTranslator(20, 4, 4, seed=5)
    few, many = translator.search(108, num_best=num_best), translator.search(108, num_best=40)
    assert_same(few, Hypotheses(*(x if x is None else x[:, :num_best] for x in many)))


@pytest.mark.parametrize("beam_size", [1, 6])
@pytest.mark.parametrize(("end_id", "start_id"), [(3, 2), (2, 2)])
def test_any_id_can_be_the_end_symbol(end_id, start_id, beam_size):
    # The translator's end symbol is 0. Rename its ids: id i becomes end_id + i, modulo 4.
    translator = RandomTranslator(5, 4, 4, seed=8)
    old = tf.constant([(i - end_id) % 4 for i in range(4)])

    def step(ids, states):
        values, attention, states = translator.step(tf.gather(old, ids), states)
        return tf.gather(values, old, axis=1), attention, states

    limits = [4, 3, 2, 1, 4]
    expected = translator.search(beam_size, max_length=limits)
    result = search(
        step,
        translator.states(),
        batch_size=5,
        start_id=start_id,
        end_id=end_id,
        vocabulary_size=4,
        beam_size=beam_size,
        max_length=limits,
        source_mask=translator.mask,
    )
    np.testing.assert_array_equal(result.lengths, expected.lengths)
    np.testing.assert_array_equal(result.scores, expected.scores)
    for sentence, rank in itertools.product(range(5), range(beam_size)):
        renamed = [(i + end_id) % 4 for i in ids_of(expected, sentence, rank)]
        assert ids_of(result, sentence, rank) == renamed
        assert not result.ids[sentence, rank, len(renamed) :].numpy().any()  # padded with 0


@pytest.mark.parametrize("sharpness", [0.5, 3.0])
def test_beam_size_1_without_penalties_returns_a_prefix_of_greedy_search(sharpness):
    translator = RandomTranslator(60, 5, 5, seed=1, sharpness=sharpness)
    result = translator.search(1, length_penalty=0, coverage_penalty=0)
    greedy = [translator.greedy(sentence) for sentence in range(60)]
    assert {len(ids) for ids in greedy} > {0, 1, 5}  # ended early, late, and not at all
    shorter = 0
    for sentence, ids in enumerate(greedy):
        length = int(result.lengths[sentence, 0])
        assert ids_of(result, sentence) == ids[:length]
        total, _ = translator.walk(sentence, ids[:length] + [END] * (length < 5))
        assert result.scores[sentence, 0].numpy() == pytest.approx(total, rel=1e-5)
        if length < len(ids) < 5:
            shorter += 1
            assert total > translator.walk(sentence, [*ids, END])[0]
    assert 0 < shorter < 60


def test_end_symbol_below_the_m_best_is_a_candidate():
    # Step 1: id 1 has 0.5, the end 0.45. The best sequence of two symbols has 0.5 * 0.5 = 0.25: the
    # empty translation is likelier, although the end is only the second best of step 1.
    rows = np.log([[0.45, 0.5, 0.05], [0.5, 0.3, 0.2]])
    result = search_fixed(rows, beam_size=1, length_penalty=0)
    assert ids_of(result) == []
    np.testing.assert_allclose(result.log_probabilities, [[np.log(0.45)]], rtol=1e-6)


def test_end_symbol_below_the_2m_best_is_no_candidate():
    # The end is the third best of step 1. With M = 1, the result is [1] with 0.4 * 0.5 = 0.2,
    # although the empty translation has 0.25.
    rows = np.log([[0.25, 0.4, 0.35], [0.5, 0.3, 0.2]])
    assert ids_of(search_fixed(rows, beam_size=1, length_penalty=0)) == [1]
    assert ids_of(search_fixed(rows, beam_size=2, length_penalty=0)) == []


def test_beam_size_1_with_a_length_penalty_can_pass_the_first_end():
    # Step 1: the end has 0.5, id 1 has 0.45. Then the end is almost certain: two symbols score
    # log(0.45) / (7 / 6) = -0.684, better than log(0.5) / (6 / 6) = -0.693.
    rows = np.log([[0.5, 0.45, 0.05], [0.9999, 0.00005, 0.00005], [1 / 3, 1 / 3, 1 / 3]])
    assert ids_of(search_fixed(rows, beam_size=1, length_penalty=0)) == []
    assert ids_of(search_fixed(rows, beam_size=1, length_penalty=1)) == [1]


def test_wider_beam_beats_greedy_search():
    # Greedy: id 1 (0.6), then at best 0.4. Alternative: id 2 (0.4), then the end with certainty.
    first, after = np.log([1e-9, 0.6, 0.4]), np.log([[0.4, 0.3, 0.3], [1, 1e-9, 1e-9]])

    def step(ids, t):
        later = tf.gather(tf.constant(after, tf.float32), tf.maximum(ids - 1, 0))
        return tf.where(t[:, None] == 0, tf.constant(first, tf.float32), later), None, t + 1

    def results(beam_size):
        return search(
            step,
            tf.zeros([1], tf.int32),
            batch_size=1,
            start_id=0,
            end_id=END,
            vocabulary_size=3,
            beam_size=beam_size,
            max_length=3,
            length_penalty=0,
            coverage_penalty=0,
        )

    assert ids_of(results(1)) == [1]
    assert ids_of(results(2)) == [2]
    np.testing.assert_allclose(results(2).log_probabilities[0], np.log([0.4, 0.24]), rtol=1e-5)


def test_ties_are_broken_by_rank_then_by_id():
    rows = np.log(np.full([3, 4], 0.25))
    result = search_fixed(rows, beam_size=3, length_penalty=0)
    # The best candidates of step 1 are the end, 1, 2 and 3. The six best of step 2 are [1 end],
    # [1 1], [1 2], [1 3], [2 end] and [2 1].
    assert [ids_of(result, rank=rank) for rank in range(3)] == [[], [1], [2]]


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
@pytest.mark.parametrize("compiled", [False, True])
def test_sentence_of_nan_ends_and_does_not_affect_others(bad, compiled):
    translator = RandomTranslator(3, 4, 4, seed=6)
    expected = translator.search(2)
    translator.log_probabilities[1] = bad
    search = tf.function(translator.search) if compiled else translator.search
    result = search(2)
    for x, y in zip(result[:4], expected[:4], strict=True):
        np.testing.assert_array_equal(x[::2], y[::2])
    np.testing.assert_array_equal(result.lengths[1], [0, 0])
    np.testing.assert_array_equal(result.ids[1], np.zeros([2, 4]))
    np.testing.assert_array_equal(result.scores[1], [-np.inf, -np.inf])


@pytest.mark.parametrize("beam_size", [1, 3])
def test_id_with_log_probability_nan_is_never_chosen(beam_size):
    translator = RandomTranslator(40, 5, 4, seed=12)
    bad = np.random.default_rng(0).random(translator.log_probabilities.shape) < 0.4
    translator.log_probabilities[bad] = -np.inf
    expected = translator.search(beam_size)
    translator.log_probabilities[bad] = np.nan
    assert_same(translator.search(beam_size), expected)


def test_hypothesis_with_attention_of_nan_is_never_returned():
    translator = RandomTranslator(2, 4, 4, seed=6)
    translator.attention[1, 0] = np.nan  # read by every hypothesis of sentence 1
    result = translator.search(3)
    assert np.isfinite(result.scores[0, 0])
    np.testing.assert_array_equal(result.scores[1], [-np.inf] * 3)
    np.testing.assert_array_equal(result.lengths[1], [0] * 3)
    # Without the coverage penalty, it does not affect the search.
    kept = translator.search(3, coverage_penalty=0, keep_attention=True)
    assert_same(translator.search(3, coverage_penalty=0), kept._replace(attention=None))
