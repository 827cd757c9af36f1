"""Launchers of collective operations, and the operations.

A failure here names the private API of TensorFlow or Keras that changed; other tests would only
show that training fails.
"""

import pytest
from distribute.tensorflow_internals.signatures import parameters
from tensorflow.python.distribute import cross_device_utils
from tensorflow.python.eager import context
from tensorflow.python.ops import collective_ops


def test_launchers_of_collectives(strategy_of):
    ops = strategy_of(2).extended._cross_device_ops
    assert len(ops._launchers) == 2
    first, second = ops._launchers
    assert (first._group_size, first._group_key) == (2, second._group_key)
    assert first._device.endswith("CPU:0") and second._device.endswith("CPU:1")
    assert isinstance(first._options.implementation.value, str)
    Launcher = cross_device_utils.CollectiveReplicaLauncher
    assert parameters(Launcher._next_instance_key) == ["self"]
    assert parameters(Launcher._get_ordering_token) == ["self"]
    assert parameters(Launcher.all_reduce)[:2] == ["self", "input_tensor"]


@pytest.mark.parametrize("operation", ["all_gather_v2", "all_to_all_v2"])
def test_operations_between_devices(operation):
    assert {
        "t",
        "group_size",
        "group_key",
        "instance_key",
        "communication_hint",
        "ordering_token",
    } <= set(parameters(getattr(collective_ops, operation)))


def test_collectives_can_be_aborted():
    assert parameters(context.Context.abort_collective_ops) == ["self", "code", "message"]
