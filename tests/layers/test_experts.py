import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.layers import Experts

ROWS = np.random.default_rng(0).standard_normal((6, 3))


def random_layer(**arguments):
    layer = Experts(3, 4, dtype="float64", **arguments)
    layer.build((None, 3))
    rng = np.random.default_rng(1)
    for weight in layer.weights:
        weight.assign(rng.standard_normal(weight.shape))
    return layer


@pytest.mark.parametrize("options", [{}, {"depth": 2, "use_bias": True, "activation": "tanh"}])
def test_each_row_is_computed_by_its_expert(options):
    layer = random_layer(**options)
    # Expert 0 has rows 0 to 2, expert 1 none, expert 2 rows 3 and 4; row 5 has no expert.
    result = layer(ROWS, tf.constant([3, 0, 2]))
    expected = np.zeros((6, 3))
    for row, expert in zip(range(5), [0, 0, 0, 2, 2], strict=True):
        h = ROWS[row]
        for i, kernel in enumerate(layer.kernels):
            h = h @ kernel.numpy()[expert]
            h = h + layer.biases[i].numpy()[expert] if options else h
            if i < layer.depth:
                h = np.tanh(h) if options else np.maximum(h, 0)
        expected[row] = h
    np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_rows", [0, 2])
def test_equal_rows_per_expert(num_rows):
    layer = random_layer(depth=2, use_bias=True, activation="tanh")
    rows = tf.constant(ROWS[: 3 * num_rows])
    result = layer(tf.reshape(rows, [3, num_rows, 3]))
    expected = layer(rows, tf.constant([num_rows] * 3))
    assert result.shape == (3, num_rows, 3)
    np.testing.assert_allclose(tf.reshape(result, [-1, 3]), expected, rtol=0, atol=1e-12)


def test_weights_by_hand():
    layer = random_layer(depth=2, use_bias=True)
    shapes = {weight.name: tuple(weight.shape) for weight in layer.weights}
    assert shapes == {
        "kernel_0": (3, 3, 4), "kernel_1": (3, 4, 4), "kernel_2": (3, 4, 3),
        "bias_0": (3, 4), "bias_1": (3, 4), "bias_2": (3, 3),
    }  # fmt: skip
    # One expert: 12 + 16 + 12 multiply-adds; with 4 + 4 + 3 biases 51 weights.
    assert layer.ops_per_row(3) == 40
    assert layer.count_params() == 3 * 51


def test_config_round_trip():
    layer = Experts(3, 4, depth=2, activation="gelu", use_bias=True, recompute=True,
                    kernel_initializer=keras.initializers.HeNormal(seed=3))  # fmt: skip
    assert Experts.from_config(layer.get_config()).get_config() == layer.get_config()
