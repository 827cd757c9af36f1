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
    # V = 3, id = ⌊4^u⌋ - 1: 4^0 = 1 → 0; 4^0.49 = 1.97 → 0; 4^0.51 = 2.03 → 1; 4^0.8 = 3.03 → 2.
    result = sampling.log_uniform_candidates(tf.constant([0.51, 0.0, 0.8, 0.49]), 3).numpy()
    assert sorted(result) == [0, 1, 2]
    assert sampling.log_uniform_candidates(tf.constant([0.0, 0.49]), 3).numpy().tolist() == [0]


@pytest.mark.parametrize("vocabulary_size", [1, 7, 793_471])
def test_candidates_lie_in_the_vocabulary(vocabulary_size):
    highest = np.nextafter(np.float32(1), np.float32(0))
    ids = sampling.log_uniform_candidates(tf.constant([0.0, highest]), vocabulary_size).numpy()
    assert ids.min() == 0
    assert ids.max() <= vocabulary_size - 1
    assert ids.max() >= 0.999 * (vocabulary_size - 1)


def test_inclusion_probability_by_hand():
    # V = 3, id 0, two draws: 1 - (1 - 0.5)² = 0.75.
    result = sampling.log_inclusion_probability(tf.constant([0]), 3, 2).numpy()
    np.testing.assert_allclose(np.exp(result), [0.75], rtol=1e-6)


def test_inclusion_probability_of_a_rare_word_keeps_its_digits():
    # 8192 draws of the last of 793,471 words: S·P = 8192 / 793,471 / log(793,472) to within 1e-3.
    result = sampling.log_inclusion_probability(tf.constant([793_470]), 793_471, 8192).numpy()
    approximation = 8192 / 793_471 / math.log(793_472)
    np.testing.assert_allclose(np.exp(result), [approximation], rtol=1e-3)


def test_inclusion_frequency_by_monte_carlo():
    vocabulary_size, num_draws, trials = 12, 6, 3000
    uniform = np.random.default_rng(1).random((trials, num_draws)).astype("float32")
    seen = np.zeros(vocabulary_size)
    for row in tf.constant(uniform):
        ids = sampling.log_uniform_candidates(row, vocabulary_size).numpy()
        assert len(set(ids)) == len(ids)
        seen[ids] += 1
    ids = tf.range(vocabulary_size)
    expected = np.exp(sampling.log_inclusion_probability(ids, vocabulary_size, num_draws).numpy())
    # Standard error at most √(0.25 / 3000) = 0.009.
    np.testing.assert_allclose(seen / trials, expected, atol=0.035)
