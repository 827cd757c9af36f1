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


def test_gated_expert_by_hand():
    layer = Experts(2, 2, gated=True)
    layer.build((None, 2))
    zeros = np.zeros((2, 4))
    # Columns: two of W_gate, two of W_up. The second expert has zeros.
    layer.kernels[0].assign([[[1, -1, 2, 5], [0, 1, 1, 7]], zeros])
    layer.kernels[1].assign([[[3, 1], [4, 4]], zeros[:, :2]])
    # (2, 1): gate (2, -1), up (5, 17): relu(gate) * up = (10, 0); times W_down (30, 10).
    result = layer(tf.constant([[2.0, 1.0], [2.0, 1.0]]), tf.constant([1, 1]))
    np.testing.assert_array_equal(result, [[30, 10], [0, 0]])
    # Three matrices: 2·(2·2) + 2·2; the sums of both factors are kept.
    assert (layer.ops_per_row(2), layer.hidden_per_row()) == (12, 4)
    deep = Experts(2, 4, depth=3, gated=True, use_bias=True)
    deep.build((None, 3))
    # 3·8 + 2·(4·8) + 4·3 multiply-adds, with 3·8 + 3 biases.
    assert deep.ops_per_row(3) == 100
    assert deep.count_params() == 2 * 127


@pytest.mark.parametrize("value", ["glorot_uniform", "he_normal", "lecun_uniform"])
@pytest.mark.parametrize("seed", [None, 3])
def test_both_matrices_of_a_gated_layer_are_initialized_like_dense_ones(value, seed):
    keras.utils.set_random_seed(1)
    config = {"class_name": value, "config": {"seed": seed}}
    layer = Experts(3, 80, gated=True, kernel_initializer=config)
    layer.build((None, 60))
    dense = keras.layers.Dense(80, kernel_initializer=value)
    dense.build((None, 60))
    matrices = np.concatenate(np.split(layer.kernels[0].numpy(), 2, axis=-1))
    for matrix in matrices:
        assert matrix.std() == pytest.approx(dense.kernel.numpy().std(), rel=0.03)
    assert np.abs(np.corrcoef(matrices.reshape(6, -1)) - np.eye(6)).max() < 0.1


def test_config_round_trip():
    layer = Experts(3, 4, depth=2, gated=True, activation="gelu", use_bias=True, recompute=True,
                    kernel_initializer=keras.initializers.HeNormal(seed=3))  # fmt: skip
    assert Experts.from_config(layer.get_config()).get_config() == layer.get_config()
