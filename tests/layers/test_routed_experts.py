import numpy as np
import pytest
import tensorflow as tf

from tfmoe.layers.routed_experts import RoutedExperts
from tfmoe.ops.assignments import assign_mask, assign_tokens, drop

X = np.random.default_rng(0).standard_normal((5, 3))
EXPERTS = np.array([[2, 0], [0, 1], [2, 0], [1, 2], [1, 0]], np.int32)
WEIGHTS = np.random.default_rng(1).random((5, 2))


def random_layer(**arguments):
    layer = RoutedExperts(3, 4, dtype="float64", **arguments)
    layer.build((None, 3))
    rng = np.random.default_rng(1)
    for weight in layer.weights:
        weight.assign(rng.standard_normal(weight.shape))
    return layer


def by_numpy(layer, dense):
    """`Σ_i G(x)_i E_i(x)` with the weights `[T, E]`."""
    first, second = (kernel.numpy() for kernel in layer.kernels)
    outputs = [np.maximum(X @ first[i], 0) @ second[i] for i in range(3)]
    return sum(dense[:, i, None] * outputs[i] for i in range(3))


def dense_weights():
    dense = np.zeros((5, 3))
    for t in range(5):
        dense[t, EXPERTS[t]] = WEIGHTS[t]
    return dense


@pytest.mark.parametrize("training", [False, True])
def test_k_experts_per_token(training):
    layer = random_layer()
    assignments = assign_tokens(tf.constant(EXPERTS), tf.constant(WEIGHTS), 3)
    y = layer(tf.constant(X), assignments, training=training)
    np.testing.assert_allclose(y, by_numpy(layer, dense_weights()), rtol=0, atol=1e-12)
    local = layer.compute_local(tf.constant(X), assignments, training=training)
    np.testing.assert_array_equal(local, y)


def test_dropped_assignments_and_tokens_without_an_expert():
    layer = random_layer()
    # Sorted: tokens 0, 1, 2, 4 of expert 0; 1, 3, 4 of expert 1; 0, 2, 3 of expert 2. Dropped are
    # all assignments of token 1, and that of token 4 to expert 0.
    kept = np.ones(10, bool)
    kept[[1, 3, 4]] = False
    assignments = assign_tokens(tf.constant(EXPERTS), tf.constant(WEIGHTS), 3)
    y = layer(tf.constant(X), drop(assignments, tf.constant(kept)))
    dense = dense_weights()
    dense[1] = dense[4, 0] = 0
    np.testing.assert_allclose(y, by_numpy(layer, dense), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(y[1], 0)


def test_varying_experts_per_token():
    layer = random_layer()
    mask = np.array([[1, 1, 1], [0, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 1]], bool)
    probability = np.random.default_rng(3).random((5, 3))
    y = layer(tf.constant(X), assign_mask(tf.constant(mask), tf.constant(probability)))
    np.testing.assert_allclose(y, by_numpy(layer, probability * mask), rtol=0, atol=1e-12)


def test_equal_rows_per_expert():
    layer = random_layer()
    # Two tokens for each expert: 0 and 1, 2 and 3, 4 and 0.
    mask = np.array([[1, 0, 1], [1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]], bool)
    probability = np.random.default_rng(3).random((5, 3))
    assignments = assign_mask(tf.constant(mask), tf.constant(probability))
    equal = assignments._replace(rows_per_expert=tf.constant(2))
    y = layer(tf.constant(X), equal, training=True)
    np.testing.assert_allclose(y, by_numpy(layer, probability * mask), rtol=0, atol=1e-12)


def test_gradients_reach_tokens_weights_and_experts():
    layer = random_layer()
    x, weights = tf.constant(X), tf.constant(WEIGHTS)
    with tf.GradientTape() as tape:
        tape.watch([x, weights])
        y = layer(x, assign_tokens(tf.constant(EXPERTS), weights, 3), training=True)
        total = tf.reduce_sum(y**2)
    gradients = tape.gradient(total, [x, weights, *layer.trainable_variables])
    for gradient in gradients:
        assert np.abs(tf.convert_to_tensor(gradient)).max() > 1e-3
    # Euler: y is linear in the weights, so Σ w·d(Σ y²)/dw = 2 Σ y².
    assert np.sum(WEIGHTS * gradients[1]) == pytest.approx(2 * total.numpy(), rel=1e-10)


def test_no_tokens():
    assignments = assign_tokens(tf.zeros([0, 2], tf.int32), tf.zeros([0, 2]), 3)
    assert random_layer()(tf.zeros([0, 3], tf.float64), assignments).shape == (0, 3)


def test_config_round_trip():
    layer = RoutedExperts(3, 4, depth=2, activation="gelu", use_bias=True)
    restored = RoutedExperts.from_config(layer.get_config())
    assert type(restored) is RoutedExperts
    assert restored.get_config() == layer.get_config()
