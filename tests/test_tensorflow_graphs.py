"""Freeing of graphs with custom gradients."""

import gc
import weakref

import pytest
import tensorflow as tf
from tensorflow_graphs import custom_gradients, forget_custom_gradients


@tf.custom_gradient
def double(x):
    return 2 * x, lambda upstream: 2 * upstream


@pytest.mark.parametrize("forgotten", [True, False])
def test_a_graph_lives_as_long_as_its_custom_gradients(forgotten):
    before = custom_gradients()
    function = tf.function(double).get_concrete_function(tf.TensorSpec([]))
    graph = weakref.ref(function.graph)
    new = custom_gradients() - before
    assert len(new) == 1
    if forgotten:
        forget_custom_gradients(new)
    del function
    gc.collect()
    assert (graph() is None) == forgotten
