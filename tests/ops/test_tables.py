import numpy as np
import pytest
import tensorflow as tf

from tfmoe.ops.tables import sum_rows


def gradient(indices, values, num_rows=9):
    values = tf.constant(values)
    return tf.IndexedSlices(
        values, tf.constant(indices), tf.constant([num_rows, *values.shape[1:]])
    )


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_rows_are_added_up_by_hand(dtype):
    indices = tf.constant([7, 3, 7, 7], dtype)
    summed = sum_rows(gradient(indices, [[1.0, 2], [3, 4], [10, 20], [100, 200]]))
    np.testing.assert_array_equal(summed.indices, [7, 3])
    np.testing.assert_array_equal(summed.values, [[111, 222], [3, 4]])
    assert summed.indices.dtype == dtype
    np.testing.assert_array_equal(summed.dense_shape, [9, 2])


def test_vectors_and_no_rows():
    summed = sum_rows(gradient([2, 2], [1.0, 5.0]))
    np.testing.assert_array_equal(summed.values, [6])
    empty = sum_rows(gradient(np.zeros([0], np.int32), np.zeros([0, 3])))
    assert empty.values.shape == (0, 3) and empty.indices.shape == (0,)


def test_other_gradients_are_unchanged():
    dense = tf.constant([1.0])
    assert sum_rows(dense) is dense and sum_rows(None) is None


def test_dense_for_xla():
    @tf.function(jit_compile=True)
    def derivative(table, ids):
        with tf.GradientTape() as tape:
            tape.watch(table)
            loss = tf.reduce_sum(tf.gather(table, ids) ** 2)
        return sum_rows(tape.gradient(loss, table), as_dense=True)

    # 2·table for each lookup.
    result = derivative(tf.constant([[1.0], [2], [3]]), tf.constant([2, 0, 2]))
    np.testing.assert_array_equal(result, [[2], [0], [12]])
