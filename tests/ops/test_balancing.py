import numpy as np
import pytest
import tensorflow as tf

from tfmoe.ops import balancing


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        ([1.0, 3.0], 0.25),  # mean 2, population variance 1, 1 / 2² (a sample variance gives 0.5)
        ([2.0, 0.0, 0.0, 2.0], 1.0),  # mean 1, variance 1
        ([0.0, 0.0, 0.0, 8.0], 3.0),  # mean 2, variance (3·4 + 36) / 4 = 12, 12 / 4: n - 1 at most
        ([5.0, 5.0, 5.0], 0.0),
        ([7.0], 0.0),
    ],
)
def test_cv_squared(x, expected):
    assert balancing.cv_squared(tf.constant(x)).numpy() == pytest.approx(expected)


def test_cv_squared_does_not_depend_on_the_scale():
    x = tf.constant([1.0, 3.0, 4.0], tf.float64)
    assert balancing.cv_squared(1000 * x).numpy() == pytest.approx(balancing.cv_squared(x).numpy())


def test_cv_squared_of_nothing_routed_is_zero_with_a_finite_gradient():
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


def test_importance():
    # Token 0: experts 0 and 2 with 0.75 and 0.25. Token 1: experts 2 and 1 with 0.6 and 0.4.
    experts = tf.constant([[0, 2], [2, 1]])
    gates = tf.constant([[0.75, 0.25], [0.6, 0.4]])
    result = balancing.importance(experts, gates, 4)
    np.testing.assert_allclose(result.numpy(), [0.75, 0.4, 0.85, 0.0], rtol=1e-6)


def test_importance_gradient_goes_to_the_gates():
    experts = tf.constant([[0, 2], [2, 1]])
    gates = tf.constant([[0.75, 0.25], [0.6, 0.4]])
    with tf.GradientTape() as tape:
        tape.watch(gates)
        weighted = tf.reduce_sum(balancing.importance(experts, gates, 3) * [1.0, 10.0, 100.0])
    np.testing.assert_allclose(tape.gradient(weighted, gates).numpy(), [[1, 100], [100, 10]])


def test_count():
    experts = tf.constant([[0, 2], [2, 1], [2, 4]])
    np.testing.assert_array_equal(balancing.count(experts, 4).numpy(), [1, 1, 3, 0])
    assert balancing.count(experts, 4, tf.float64).dtype == tf.float64


def test_counts_and_importance_of_an_empty_batch():
    experts = tf.zeros([0, 2], tf.int32)
    np.testing.assert_array_equal(balancing.count(experts, 3).numpy(), [0, 0, 0])
    importance = balancing.importance(experts, tf.zeros([0, 2]), 3)
    np.testing.assert_array_equal(importance.numpy(), [0, 0, 0])


def test_hierarchical_load():
    # Eq 14, two groups of two: 3·2/4, 3·2/4 and 1·1/1, 1·0.5/1.
    load = balancing.hierarchical_load(
        tf.constant([3.0, 1.0]), tf.constant([[2.0, 2.0], [1.0, 0.5]]), tf.constant([4, 1])
    )
    np.testing.assert_allclose(load.numpy(), [1.5, 1.5, 1.0, 0.5])


def test_hierarchical_load_of_a_group_without_examples_is_zero():
    primary = tf.constant([3.0, 0.2])
    with tf.GradientTape() as tape:
        tape.watch(primary)
        load = balancing.hierarchical_load(
            primary, tf.constant([[2.0, 1.0], [0.0, 0.0]]), tf.constant([3, 0])
        )
        loss = balancing.cv_squared(load)
    np.testing.assert_allclose(load.numpy(), [2.0, 1.0, 0.0, 0.0])
    assert np.all(np.isfinite(tape.gradient(loss, primary).numpy()))
