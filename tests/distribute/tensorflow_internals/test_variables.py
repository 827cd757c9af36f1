"""Variables with parts on several devices.

A failure here names the private API of TensorFlow or Keras that changed; other tests would only
show that training fails.
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
def test_assignments_call_update(strategy_of, method):
    """`ShardedVariable` overrides this method to divide values."""
    with strategy_of(2).scope():
        variable = tf.Variable([1.0])
    called = []
    variable._update = lambda **kwargs: called.append(set(kwargs))
    # TensorFlow's policies do not call `_update`; the strategy's variables have no policy.
    variable._policy = None
    getattr(variable, method)(tf.constant([2.0]))
    assert len(called) == 1 and called[0] >= {"update_fn", "value"}
