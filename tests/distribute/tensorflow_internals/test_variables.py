"""Variables whose parts lie on several devices.

A failure here says which private interface of TensorFlow or Keras changed; other tests would say
only that training fails.
"""

import pytest
import tensorflow as tf
from distribute.tensorflow_internals.signatures import parameters
from tensorflow.python.distribute import values


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("__init__", ["self", "strategy", "values", "aggregation", "var_policy"]),
        ("_get", ["self"]),
        ("_get_cross_replica", ["self"]),
        ("_get_on_device_or_primary", ["self"]),
        ("_dense_var_to_tensor", ["self", "dtype", "name", "as_ref"]),
        ("_as_graph_element", ["self"]),
        ("_update_replica", ["self", "update_fn", "value", "kwargs"]),
        ("_update", ["self", "update_fn", "value", "kwargs"]),
        ("read_value", ["self"]),
        ("value", ["self"]),
        ("numpy", ["self"]),
        ("get_shape", ["self"]),
    ],
)
def test_methods_of_distributed_variables(method, expected):
    assert parameters(getattr(values.DistributedVariable, method)) == expected


def test_attributes_of_distributed_variables(strategy_of):
    strategy = strategy_of(2)
    with strategy.scope():
        variable = tf.Variable([1.0], name="name")
    assert isinstance(variable, values.DistributedVariable)
    assert len(variable._values) == 2
    assert variable._distribute_strategy is strategy
    assert variable._common_name == "name"


@pytest.mark.parametrize("method", ["assign", "assign_add", "assign_sub"])
def test_changes_of_a_variable_go_through_update(strategy_of, method):
    """The one hook in which `ShardedVariable` divides values."""
    with strategy_of(2).scope():
        variable = tf.Variable([1.0])
    called = []
    variable._update = lambda **kwargs: called.append(set(kwargs))
    # Policies of TensorFlow go another way; a variable without one is what the strategy makes.
    variable._policy = None
    getattr(variable, method)(tf.constant([2.0]))
    assert len(called) == 1 and called[0] >= {"update_fn", "value"}
