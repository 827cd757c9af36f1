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
    # P = 0.5, 0.292, 0.208 and e = 1, 0.5, 0.2 give first events at times 2, 1.71 and 0.96.
    uniform = tf.exp(tf.constant([-1.0, -0.5, -0.2], tf.float64))
    times = [1 / 0.5, 0.5 / (math.log(1.5) / math.log(4)), 0.2 / (math.log(4 / 3) / math.log(4))]
    for num_candidates, expected, expected_time in ((1, [2], times[1]), (2, [2, 1], times[0])):
        candidates, time = sampling.log_uniform_candidates(uniform, num_candidates)
        assert candidates.numpy().tolist() == expected
        assert time.numpy() == pytest.approx(expected_time, rel=1e-6)


@pytest.mark.parametrize("vocabulary_size", [2, 7, 100_000])
def test_candidates_are_distinct_words(vocabulary_size):
    uniform = np.random.default_rng(0).random(vocabulary_size, "float32")
    uniform[-1] = 0  # the last word is never drawn
    num_candidates = vocabulary_size - 1
    candidates, time = sampling.log_uniform_candidates(tf.constant(uniform), num_candidates)
    assert sorted(candidates.numpy()) == list(range(num_candidates))
    log_q = sampling.log_inclusion_probability(candidates, vocabulary_size, time)
    np.testing.assert_array_equal(log_q, np.zeros(num_candidates))  # the others always are


def test_inclusion_probability_by_hand():
    # V = 3, id 0, time 4 log 2: 1 - exp(-0.5·4 log 2) = 3/4.
    time = tf.constant(4 * math.log(2), tf.float64)
    result = sampling.log_inclusion_probability(tf.constant([0]), 3, time).numpy()
    np.testing.assert_allclose(np.exp(result), [0.75], rtol=1e-6)


def test_inclusion_probability_of_a_rare_word_is_accurate():
    # The last of 793,471 words at time 8192: P·8192 = 8192 / 793,471 / log(793,472) to within 1e-3.
    result = sampling.log_inclusion_probability(
        tf.constant([793_470]), 793_471, tf.constant(8192.0)
    )
    approximation = 8192 / 793_471 / math.log(793_472)
    np.testing.assert_allclose(np.exp(result.numpy()), [approximation], rtol=1e-3)


def draws(vocabulary_size, num_candidates, trials):
    """The candidates of many trials, `[trials, S]`, and their times."""
    uniform = np.random.default_rng(1).random((trials, vocabulary_size))
    return sampling.log_uniform_candidates(tf.constant(uniform), num_candidates)


def test_candidates_are_distributed_like_distinct_draws():
    """The first two of four words are i, then j with probability `P(i)·P(j) / (1 - P(i))`."""
    p = np.log([2, 3 / 2, 4 / 3, 5 / 4]) / math.log(5)
    expected = p[:, None] * p / (1 - p[:, None])
    np.fill_diagonal(expected, 0)
    trials = 20_000
    candidates = draws(4, 2, trials)[0].numpy()
    frequencies = np.zeros((4, 4))
    np.add.at(frequencies, (candidates[:, 0], candidates[:, 1]), 1 / trials)
    # The standard error is at most √(0.25 / 20,000) = 0.0036.
    np.testing.assert_allclose(frequencies, expected, atol=0.012)


@pytest.mark.parametrize(
    ("vocabulary_size", "num_candidates"), [(3, 1), (12, 3), (12, 6), (12, 11)]
)
def test_sums_over_candidates_are_unbiased_estimates(vocabulary_size, num_candidates):
    """Of partition functions and the vocabulary size; `1 - (1 - P)^n` of n draws is 7% off."""
    trials = 40_000
    candidates, times = draws(vocabulary_size, num_candidates, trials)
    q = np.exp(sampling.log_inclusion_probability(candidates, vocabulary_size, times[:, None]))
    logits = 1.5 * np.random.default_rng(2).standard_normal(vocabulary_size)
    for values in (np.exp(logits), np.ones(vocabulary_size)):
        estimates = (values[candidates] / q).sum(axis=1)
        error = estimates.std() / math.sqrt(trials)
        assert error < 0.015 * values.sum()
        assert estimates.mean() == pytest.approx(values.sum(), abs=3.5 * error)
