import numpy as np
import pytest
import tensorflow as tf

from tfmoe.models.beam_search.highest import highest


@pytest.mark.parametrize(
    ("rows", "width", "k"), [(2, 8, 8), (3, 40, 8), (4, 997, 8), (5, 1024, 1), (1, 1000, 2)]
)
def test_the_values_and_indices_of_top_k_also_in_ties(rows, width, k):
    # Of 997 values, a prime number, the last block is not full. 40 values give many ties.
    values = np.random.default_rng(width).integers(-40, 0, (rows, width)).astype("float32")
    expected = tf.math.top_k(values, k)
    best, indices = highest(tf.constant(values), k)
    np.testing.assert_array_equal(best, expected.values)
    np.testing.assert_array_equal(indices, expected.indices)


def test_indices_are_valid_if_most_values_are_minus_infinity():
    values = np.full([1, 997], -np.inf, "float32")
    values[0, 996] = 1.0
    best, indices = highest(tf.constant(values), 8)
    assert indices[0, 0] == 996 and best[0, 0] == 1 and np.all(best[0, 1:] == -np.inf)
    assert np.all((indices.numpy() >= 0) & (indices.numpy() < 997))
