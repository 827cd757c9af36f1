import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tfmoe.ops.segments import segment_ids


@pytest.mark.parametrize("lengths", [[2, 0, 3], [0], [0, 0, 4], [5], [1, 0, 0]], ids=str)
def test_by_hand(lengths):
    segments = segment_ids(tf.constant(lengths))
    assert segments.dtype == tf.int32
    np.testing.assert_array_equal(segments, np.repeat(np.arange(len(lengths)), lengths))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40))
def test_any_lengths(lengths):
    segments = segment_ids(tf.constant(lengths, tf.int32))
    np.testing.assert_array_equal(segments, np.repeat(np.arange(len(lengths)), lengths))


def test_in_a_graph_with_unknown_lengths():
    function = tf.function(segment_ids, input_signature=[tf.TensorSpec([None], tf.int32)])
    np.testing.assert_array_equal(function([1, 2]), [0, 1, 1])
    np.testing.assert_array_equal(function([0, 0, 1]), [2])
