import math

import numpy as np
import pytest
import tensorflow as tf

from tfmoe.ops import balancing, routing
from tfmoe.ops.assignments import assign_tokens


def phi(x):
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def finite_differences(function, x, step=1e-6):
    """The gradient of a scalar function of one float64 array, by central differences."""
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[i] += step
        below[i] -= step
        gradient[i] = (function(above) - function(below)) / (2 * step)
    return gradient


def test_top_k_gates():
    # Token 0 keeps experts 2 and 0: softmax(ln 3, 0) = 3/4, 1/4. Token 1 keeps 1 and 2, equal.
    logits = tf.constant([[0.0, -5.0, math.log(3)], [1.0, 2.0, 2.0]])
    experts, gates = routing.top_k_gates(logits, 2)
    np.testing.assert_array_equal(experts.numpy(), [[2, 0], [1, 2]])
    np.testing.assert_allclose(gates.numpy(), [[0.75, 0.25], [0.5, 0.5]], rtol=1e-6)
    assert experts.dtype == tf.int32


def test_top_k_gates_prefers_the_lower_id_in_a_tie():
    experts, gates = routing.top_k_gates(tf.zeros([3, 5]), 2)
    np.testing.assert_array_equal(experts.numpy(), [[0, 1]] * 3)
    np.testing.assert_allclose(gates.numpy(), 0.5)


def test_top_1_gate_is_one_and_has_no_gradient():
    logits = tf.constant([[0.3, -1.0, 2.0]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        gates = routing.top_k_gates(logits, 1)[1]
    np.testing.assert_array_equal(gates.numpy(), [[1.0]])
    np.testing.assert_allclose(tape.gradient(gates, logits).numpy(), 0.0, atol=1e-12)


def test_normal_cdf():
    result = routing.normal_cdf(tf.constant([0.0, 1.0, -1.0], tf.float64)).numpy()
    np.testing.assert_allclose(result, [0.5, 0.8413447460685429, 0.15865525393145707], rtol=1e-14)
    # Far in the lower tail 0.5 · (1 + erf) would be 0: Φ(-10) = 7.62e-24.
    assert routing.normal_cdf(tf.constant(-10.0)).numpy() == pytest.approx(7.619853e-24, rel=1e-4)


def test_probability_by_hand_with_k_1():
    clean = tf.constant([[0.0, 1.0, 2.0]], tf.float64)
    noisy = tf.constant([[0.5, 1.5, 1.8]], tf.float64)
    stddev = tf.constant([[1.0, 2.0, 0.5]], tf.float64)
    # Expert 2 is selected, and stays selected while it exceeds 1.5, the highest of the others.
    # Experts 0 and 1 must exceed 1.8.
    expected = [phi((0 - 1.8) / 1), phi((1 - 1.8) / 2), phi((2 - 1.5) / 0.5)]
    result = routing.probability_in_top_k(clean, noisy, stddev, 1)
    np.testing.assert_allclose(result.numpy(), [expected], rtol=1e-12)


def test_probability_by_hand_with_k_2():
    clean = tf.constant([[3.0, 0.0, 1.0, 2.0]], tf.float64)
    noisy = tf.constant([[2.5, 0.25, 1.5, 1.0]], tf.float64)
    # Experts 0 and 2 are selected and must exceed the third logit, 1.0. The others must exceed the
    # second, 1.5.
    expected = [phi(3 - 1.0), phi(0 - 1.5), phi(1 - 1.0), phi(2 - 1.5)]
    result = routing.probability_in_top_k(clean, noisy, tf.ones_like(clean), 2)
    np.testing.assert_allclose(result.numpy(), [expected], rtol=1e-12)


def test_probability_with_equal_logits():
    # At initialization all logits are equal: in a tie both thresholds are the same.
    clean = tf.zeros([1, 4], tf.float64)
    result = routing.probability_in_top_k(clean, clean, tf.ones_like(clean), 2)
    np.testing.assert_allclose(result.numpy(), 0.5)


NUM_EXPERTS, K = 8, 2
CLEAN = np.array([0.0, 0.3, -0.5, 1.0, 0.2, -1.0, 0.6, 0.1])
STDDEV = np.array([1.0, 0.5, 2.0, 0.7, 1.5, 1.0, 0.3, 0.9])
NUM_DRAWS = 200_000


def selection_frequency_and_noisy_logits():
    noisy = CLEAN + STDDEV * np.random.default_rng(7).standard_normal((NUM_DRAWS, NUM_EXPERTS))
    experts, _ = routing.top_k_gates(tf.constant(noisy), K)
    return np.bincount(np.ravel(experts), minlength=NUM_EXPERTS) / NUM_DRAWS, noisy


def test_mean_probability_is_the_selection_frequency():
    frequency, noisy = selection_frequency_and_noisy_logits()
    clean, stddev = (tf.constant(np.tile(v, (NUM_DRAWS, 1))) for v in (CLEAN, STDDEV))
    mean = tf.reduce_mean(routing.probability_in_top_k(clean, noisy, stddev, K), axis=0).numpy()
    # The standard error of either is at most √(0.25 / 200,000) = 0.0011.
    np.testing.assert_allclose(mean, frequency, atol=0.005)
    assert mean.sum() == pytest.approx(K, abs=0.01)


def test_that_tolerance_detects_a_biased_estimate():
    # With the k-th highest of all logits as kth_excluding, P is too low for selected experts.
    frequency, noisy = selection_frequency_and_noisy_logits()
    kth = np.sort(noisy, axis=1)[:, -K, None]
    biased = np.vectorize(phi)((CLEAN - kth[:20_000]) / STDDEV).mean(axis=0)
    assert np.count_nonzero(frequency - biased > 0.01) >= 6
    assert biased.sum() < K - 0.1


@pytest.mark.parametrize("k", [1, 2, 4])
def test_load_loss_gradients_against_finite_differences(k):
    rng = np.random.default_rng(k)
    logits, noise_logits = rng.standard_normal((2, 6, 5))
    draw = rng.standard_normal((6, 5))

    def loss(logits, noise_logits):
        stddev = tf.nn.softplus(noise_logits)
        noisy = logits + draw * stddev
        probability = routing.probability_in_top_k(logits, noisy, stddev, k)
        return balancing.cv_squared(tf.reduce_sum(probability, axis=0))

    noisy = np.sort(logits + draw * np.log1p(np.exp(noise_logits)), axis=1)
    assert np.diff(noisy, axis=1).min() > 1e-3  # no ties within the step size
    logits_tensor, noise_tensor = tf.constant(logits), tf.constant(noise_logits)
    with tf.GradientTape() as tape:
        tape.watch([logits_tensor, noise_tensor])
        value = loss(logits_tensor, noise_tensor)
    dlogits, dnoise = tape.gradient(value, [logits_tensor, noise_tensor])
    expected = finite_differences(lambda v: loss(tf.constant(v), noise_tensor).numpy(), logits)
    np.testing.assert_allclose(dlogits.numpy(), expected, atol=1e-8)
    expected = finite_differences(
        lambda v: loss(logits_tensor, tf.constant(v)).numpy(), noise_logits
    )
    np.testing.assert_allclose(dnoise.numpy(), expected, atol=1e-8)
    assert np.abs(dlogits.numpy()).max() > 1e-3
    assert np.abs(dnoise.numpy()).max() > 1e-3


@pytest.mark.parametrize("k", [2, 4])
def test_importance_loss_gradient_against_finite_differences(k):
    logits = np.random.default_rng(k).standard_normal((6, 5))

    def loss(logits):
        assignments = assign_tokens(*routing.top_k_gates(logits, k), 5)
        return balancing.cv_squared(assignments.sum_by_expert(assignments.weights))

    assert np.diff(np.sort(logits, axis=1), axis=1).min() > 1e-3
    tensor = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        value = loss(tensor)
    expected = finite_differences(lambda v: loss(tf.constant(v)).numpy(), logits)
    np.testing.assert_allclose(tape.gradient(value, tensor).numpy(), expected, atol=1e-8)
    assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("noise_stddev", [0.0, 1e-30, 1e-20])
def test_vanishing_noise_gives_the_counts_and_no_nan(noise_stddev):
    clean = tf.constant([[3.0, 0.0, 1.0, 2.0], [0.0, 0.5, -2.0, 3.0]])
    stddev = tf.fill([2, 4], noise_stddev)
    with tf.GradientTape() as tape:
        tape.watch([clean, stddev])
        probability = routing.probability_in_top_k(clean, clean, stddev, 2)
        loss = balancing.cv_squared(tf.reduce_sum(probability, axis=0))
    np.testing.assert_array_equal(probability.numpy(), [[1, 0, 0, 1], [0, 1, 0, 1]])
    for gradient in tape.gradient(loss, [clean, stddev]):
        np.testing.assert_array_equal(gradient.numpy(), 0)


def test_top_rows_of_experts_by_hand():
    # Group 0: expert 0 has 0.1, 0.7, 0.7 in rows 0 to 2, expert 1 has 0.9, 0.3, 0.4. Group 1: ties.
    probability = tf.constant(
        [[[0.1, 0.9], [0.7, 0.3], [0.7, 0.4]], [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]]
    )
    selected, rows = routing.top_rows_of_experts(probability, 2)
    np.testing.assert_array_equal(rows.numpy(), [[[1, 2], [0, 2]], [[0, 1], [0, 1]]])
    expected = np.array([[[0.7, 0.7], [0.9, 0.4]], [[0.5, 0.5], [0.5, 0.5]]], "float32")
    np.testing.assert_array_equal(selected.numpy(), expected)
    assert rows.dtype == tf.int32


def test_gradient_of_top_rows_reaches_the_selected_rows():
    probability = tf.constant([[[0.1, 0.9], [0.7, 0.3], [0.6, 0.4]]])
    weights = tf.constant([[[1.0, 2.0], [3.0, 4.0]]])
    with tf.GradientTape() as tape:
        tape.watch(probability)
        total = tf.reduce_sum(weights * routing.top_rows_of_experts(probability, 2)[0])
    gradient = tf.convert_to_tensor(tape.gradient(total, probability)).numpy()
    np.testing.assert_array_equal(gradient, [[[0, 3], [1, 0], [2, 4]]])


def test_top_rows_without_rows():
    probability = tf.zeros([2, 0, 3])
    with tf.GradientTape() as tape:
        tape.watch(probability)
        selected, rows = routing.top_rows_of_experts(probability, 0)
    assert selected.shape == rows.shape == (2, 3, 0)
    gradient = tape.gradient(selected, probability)
    assert gradient is None or tf.convert_to_tensor(gradient).shape == (2, 0, 3)
