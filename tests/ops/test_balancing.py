import numpy as np
import pytest
import tensorflow as tf

from tfmoe.ops import balancing


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        ([1.0, 3.0], 0.25),  # mean 2, population variance 1, 1 / 2² (a sample variance gives 0.5)
        ([2.0, 0.0, 0.0, 2.0], 1.0),  # mean 1, variance 1
        ([0.0, 0.0, 0.0, 8.0], 3.0),  # mean 2, variance (3·4 + 36) / 4 = 12, 12 / 4 = n - 1
        ([5.0, 5.0, 5.0], 0.0),
        ([7.0], 0.0),
    ],
)
def test_cv_squared(x, expected):
    assert balancing.cv_squared(tf.constant(x)).numpy() == pytest.approx(expected)


def test_cv_squared_is_scale_invariant():
    x = tf.constant([1.0, 3.0, 4.0], tf.float64)
    assert balancing.cv_squared(1000 * x).numpy() == pytest.approx(balancing.cv_squared(x).numpy())


def test_cv_squared_of_zeros_is_zero_with_a_finite_gradient():
    x = tf.zeros([4])
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = balancing.cv_squared(x)
    assert value.numpy() == 0
    assert np.all(np.isfinite(tape.gradient(value, x).numpy()))


def test_cv_squared_gradient_by_hand():
    # n = 2, x = (1, 3): CV² = (a - b)² / (a + b)²; d/da = 4 b (a - b) / (a + b)³ = 4·3·(-2) / 64,
    # d/db = -4 a (a - b) / (a + b)³ = 8 / 64.
    x = tf.constant([1.0, 3.0], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = balancing.cv_squared(x)
    np.testing.assert_allclose(tape.gradient(value, x).numpy(), [-0.375, 0.125], rtol=1e-12)


def test_cv_squared_reduces_the_last_axis():
    x = tf.constant([[1.0, 3.0], [5.0, 5.0], [0.0, 0.0]])
    np.testing.assert_allclose(balancing.cv_squared(x), [0.25, 0, 0])


# The sums of a gate with two experts, and of two such gates at once.
SUMS = {
    "tokens": tf.constant(4.0, tf.float64),
    "importance": tf.constant([1.0, 3.0], tf.float64),
    "load": tf.constant([3.0, 1.0], tf.float64),
    "probability": tf.constant([2.5, 1.5], tf.float64),
}
GROUP_SUMS = {
    "tokens": tf.constant([4.0, 2.0], tf.float64),
    "importance": tf.constant([[1.0, 3.0], [1.0, 1.0]], tf.float64),
    "load": tf.constant([[3.0, 1.0], [0.0, 2.0]], tf.float64),
    "probability": tf.constant([[2.5, 1.5], [0.5, 1.5]], tf.float64),
}


def test_importance_loss():
    assert balancing.importance_loss(SUMS).numpy() == 0.25  # CV² of 1 and 3, as above
    np.testing.assert_array_equal(balancing.importance_loss(GROUP_SUMS), [0.25, 0])


def test_load_loss_uses_the_smooth_estimate_if_available():
    assert balancing.load_loss(SUMS).numpy() == 0.25
    np.testing.assert_array_equal(balancing.load_loss(GROUP_SUMS), [0.25, 1])
    sums = {**SUMS, "smooth_load": tf.constant([2.0, 2.0], tf.float64)}
    assert balancing.load_loss(sums).numpy() == 0


def test_load_balance_loss():
    # 2 · (3/4 · 2.5/4 + 1/4 · 1.5/4) = 2 · (7.5 + 1.5) / 16.
    assert balancing.load_balance_loss(SUMS).numpy() == 2 * 9 / 16
    # Second group: 2 · (0/2 · 0.5/2 + 2/2 · 1.5/2).
    np.testing.assert_array_equal(balancing.load_balance_loss(GROUP_SUMS), [2 * 9 / 16, 1.5])


def test_load_balance_loss_of_no_tokens_is_zero():
    sums = {name: tf.zeros_like(values) for name, values in SUMS.items()}
    assert balancing.load_balance_loss(sums).numpy() == 0


def test_weighted_losses():
    weighted = (0.5, balancing.importance_loss), (2.0, balancing.load_balance_loss)
    assert balancing.weighted_losses(SUMS, *weighted).numpy() == 0.125 + 2 * 18 / 16
    assert balancing.weighted_losses(SUMS, (0.0, None), weighted[0]).numpy() == 0.125
    assert balancing.weighted_losses(SUMS, (0.0, None)) is None


def test_add_losses():
    assert balancing.add_losses(tf.constant(1.0), None, tf.constant(2.0)).numpy() == 3
    assert balancing.add_losses(None, None) is None


def test_balance_metrics():
    # The CV of 1 and 3 is 0.5. Loads 0, 0, 2, 6: mean 2, variance (4 + 4 + 0 + 16) / 4 = 6.
    metrics = balancing.balance_metrics(tf.constant([1.0, 3.0]), tf.constant([0.0, 0.0, 2.0, 6.0]))
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(
        {
            "cv_importance": 0.5,
            "cv_load": 6**0.5 / 2,
            "max_over_mean_load": 3.0,
            "unused_experts": 0.5,
        }
    )


def test_balance_metrics_without_tokens():
    metrics = balancing.balance_metrics(tf.zeros([2]), tf.zeros([2]))
    assert {name: float(value) for name, value in metrics.items()} == {
        "cv_importance": 0.0,
        "cv_load": 0.0,
        "max_over_mean_load": 0.0,
        "unused_experts": 1.0,
    }


def test_hierarchical_load():
    # Eq 14, two groups of two: 3·2/4, 3·2/4 and 1·1/1, 1·0.5/1.
    load = balancing.hierarchical_load(
        tf.constant([3.0, 1.0]), tf.constant([[2.0, 2.0], [1.0, 0.5]]), tf.constant([4, 1])
    )
    np.testing.assert_allclose(load.numpy(), [1.5, 1.5, 1.0, 0.5])


def test_hierarchical_load_of_a_group_without_tokens_is_zero():
    primary = tf.constant([3.0, 0.2])
    with tf.GradientTape() as tape:
        tape.watch(primary)
        load = balancing.hierarchical_load(
            primary, tf.constant([[2.0, 1.0], [0.0, 0.0]]), tf.constant([3, 0])
        )
        loss = balancing.cv_squared(load)
    np.testing.assert_allclose(load.numpy(), [2.0, 1.0, 0.0, 0.0])
    assert np.all(np.isfinite(tape.gradient(loss, primary).numpy()))
