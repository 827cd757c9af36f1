import math

import numpy as np
import pytest
import tensorflow as tf

from tfmoe.ops import sampling


def test_probability_by_hand():
    # V = 3: log(2/1), log(3/2) and log(4/3) over log 4.
    result = sampling.log_uniform_probability(tf.constant([0, 1, 2]), 3).numpy()
    expected = [0.5, math.log(1.5) / math.log(4), math.log(4 / 3) / math.log(4)]
    np.testing.assert_allclose(result, expected, rtol=1e-6)


@pytest.mark.parametrize("vocabulary_size", [1, 2, 1000, 793_471])
def test_probabilities_sum_to_one(vocabulary_size):
    p = sampling.log_uniform_probability(tf.range(vocabulary_size), vocabulary_size)
    assert p.numpy().sum(dtype=np.float64) == pytest.approx(1, abs=1e-4)


def test_candidates_by_hand():
    # P = 0.5, 0.292, 0.208, and e = 1, 0.5, 0.2: first events at the times 2, 1.71 and 0.96.
    uniform = tf.exp(tf.constant([-1.0, -0.5, -0.2], tf.float64))
    times = [1 / 0.5, 0.5 / (math.log(1.5) / math.log(4)), 0.2 / (math.log(4 / 3) / math.log(4))]
    for num_candidates, expected, time in ((1, [2], times[1]), (2, [2, 1], times[0])):
        candidates, found = sampling.log_uniform_candidates(uniform, num_candidates)
        assert candidates.numpy().tolist() == expected
        assert found.numpy() == pytest.approx(time, rel=1e-6)


@pytest.mark.parametrize("vocabulary_size", [2, 7, 100_000])
def test_candidates_are_distinct_words(vocabulary_size):
    uniform = np.random.default_rng(0).random(vocabulary_size, "float32")
    uniform[-1] = 0  # a word that never comes
    num_candidates = vocabulary_size - 1
    candidates, time = sampling.log_uniform_candidates(tf.constant(uniform), num_candidates)
    assert sorted(candidates.numpy()) == list(range(num_candidates))
    log_q = sampling.log_inclusion_probability(candidates, vocabulary_size, time)
    np.testing.assert_array_equal(log_q, np.zeros(num_candidates))  # all others always come


def test_inclusion_probability_by_hand():
    # V = 3, id 0, time 4 log 2: 1 - exp(-0.5·4 log 2) = 3/4.
    time = tf.constant(4 * math.log(2), tf.float64)
    result = sampling.log_inclusion_probability(tf.constant([0]), 3, time).numpy()
    np.testing.assert_allclose(np.exp(result), [0.75], rtol=1e-6)


def test_inclusion_probability_of_a_rare_word_keeps_its_digits():
    # The last of 793,471 words until the time 8192: P·8192 = 8192 / 793,471 / log(793,472) to
    # within 1e-3.
    result = sampling.log_inclusion_probability(
        tf.constant([793_470]), 793_471, tf.constant(8192.0)
    )
    approximation = 8192 / 793_471 / math.log(793_472)
    np.testing.assert_allclose(np.exp(result.numpy()), [approximation], rtol=1e-3)


def draws(vocabulary_size, num_candidates, trials):
    """Candidates of many trials, `[trials, S]`, and their times."""
    uniform = np.random.default_rng(1).random((trials, vocabulary_size))
    return sampling.log_uniform_candidates(tf.constant(uniform), num_candidates)


def test_candidates_are_those_of_draws_until_enough_are_distinct():
    """The first two of four words: `P(i)·P(j) / (1 - P(i))` for i and then j."""
    p = np.log([2, 3 / 2, 4 / 3, 5 / 4]) / math.log(5)
    expected = p[:, None] * p / (1 - p[:, None])
    np.fill_diagonal(expected, 0)
    trials = 20_000
    candidates = draws(4, 2, trials)[0].numpy()
    found = np.zeros((4, 4))
    np.add.at(found, (candidates[:, 0], candidates[:, 1]), 1 / trials)
    # Standard error at most √(0.25 / 20,000) = 0.0036.
    np.testing.assert_allclose(found, expected, atol=0.012)


@pytest.mark.parametrize(
    ("vocabulary_size", "num_candidates"), [(3, 1), (12, 3), (12, 6), (12, 11)]
)
def test_sums_over_candidates_are_unbiased_estimates(vocabulary_size, num_candidates):
    """Partition sums, and the number of words; `1 - (1 - P)^n` of n draws would be 7% off."""
    trials = 40_000
    candidates, times = draws(vocabulary_size, num_candidates, trials)
    q = np.exp(sampling.log_inclusion_probability(candidates, vocabulary_size, times[:, None]))
    logits = 1.5 * np.random.default_rng(2).standard_normal(vocabulary_size)
    for of_words in (np.exp(logits), np.ones(vocabulary_size)):
        estimates = (of_words[candidates] / q).sum(axis=1)
        error = estimates.std() / math.sqrt(trials)
        assert error < 0.015 * of_words.sum()
        assert estimates.mean() == pytest.approx(of_words.sum(), abs=3.5 * error)
