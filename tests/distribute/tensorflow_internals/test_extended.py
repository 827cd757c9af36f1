"""TensorFlow's collective strategy, the base class of the implementation of `MixedStrategy`.

A failure here names the private API of TensorFlow or Keras that changed; other tests would only
show that training fails.
"""

import inspect

import pytest
import tensorflow as tf
from distribute.tensorflow_internals.signatures import parameters
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.python.distribute import (
    collective_all_reduce_strategy,
    collective_util,
    distribute_lib,
    multi_worker_util,
)
from tensorflow.python.eager import context, record

Extended = collective_all_reduce_strategy.CollectiveAllReduceExtended


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (
            "__init__",
            ["self", "container_strategy", "cluster_resolver", "communication_options", "devices"],
        ),
        ("_initialize_multi_worker", ["self", "cluster_resolver"]),
        ("_use_merge_call", ["self"]),
        ("_create_variable", ["self", "next_creator", "kwargs"]),
        ("_get_replica_id_in_sync_group", ["self", "replica_id"]),
        ("_in_multi_worker_mode", ["self"]),
        ("_container_strategy", ["self"]),
    ],
)
def test_methods_of_the_collective_strategy(method, expected):
    assert parameters(getattr(Extended, method)) == expected


def test_attributes_of_the_collective_strategy(strategy_of):
    strategy = strategy_of(2)
    extended = strategy.extended
    assert (extended._num_workers, extended._id_in_cluster) == (1, 0)
    assert extended._num_replicas_in_sync == 2
    assert extended._in_multi_worker_mode() is False
    assert extended._container_strategy() is strategy
    assert "CPU:0" in extended._worker_device
    assert len(extended.worker_devices) == 2
    assert hasattr(extended, "_host_cross_device_ops")
    assert extended.experimental_enable_get_next_as_optional is False


def test_replicas_update_without_a_merge_call(strategy_of):
    assert not strategy_of(2).extended._use_merge_call()
    assert distribute_lib.get_update_replica_id() is None


def test_configuration_of_the_coordination_service():
    assert {
        "service_type",
        "service_leader",
        "coordinated_jobs",
        "cluster_register_timeout_in_ms",
        "heartbeat_timeout_in_ms",
    } <= set(parameters(context.Context.configure_coordination_service))
    fields = coordination_config_pb2.CoordinationServiceConfig.DESCRIPTOR.fields_by_name
    assert {"cluster_register_timeout_in_ms", "heartbeat_timeout_in_ms"} <= set(fields)
    job = coordination_config_pb2.CoordinatedJob(name="worker", num_tasks=2)
    assert (job.name, job.num_tasks) == ("worker", 2)
    assert isinstance(inspect.getattr_static(context.Context, "coordination_service"), property)


def test_leader_of_a_cluster():
    cluster = multi_worker_util.normalize_cluster_spec({"worker": ["a:1", "b:2"]})
    assert cluster.as_dict() == {"worker": ["a:1", "b:2"]}
    assert multi_worker_util.coordination_leader(cluster) == "/job:worker/replica:0/task:0"


def test_options_of_collectives_have_no_timeout():
    assert collective_util.Options().timeout_seconds is None


def test_recording_stops_for_initial_values():
    with tf.GradientTape() as tape:
        variable = tf.Variable(2.0)
        with record.stop_recording():
            y = variable * 3
    assert tape.gradient(y, variable) is None
