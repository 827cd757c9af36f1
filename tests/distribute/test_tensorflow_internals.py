"""Names that `tfmoe.distribute` takes from private interfaces of TensorFlow and Keras.

A failure here says which of them changed; other tests would say only that training fails.
"""

import inspect
from itertools import pairwise

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.python.distribute import (
    collective_all_reduce_strategy,
    collective_util,
    cross_device_utils,
    distribute_lib,
    multi_worker_util,
    values,
)
from tensorflow.python.eager import context, record
from tensorflow.python.ops import collective_ops

from tfmoe.distribute import collectives
from tfmoe.distribute.tensorflow_internals import (
    KEYS_PER_STRATEGY,
    MIRRORED_KEY_BASE,
    SEED_STATE,
    compiles_for_xla,
    in_while_loop,
    initialised,
    local_replica,
    replica_context,
)

Extended = collective_all_reduce_strategy.CollectiveAllReduceExtended


def parameters(function):
    return list(inspect.signature(function).parameters)


# TensorFlow's collective strategy.


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


def test_every_strategy_numbers_its_own_collectives(strategy_of):
    plain = tf.distribute.MultiWorkerMirroredStrategy
    devices = ["CPU:0", "CPU:1"]
    strategies = [
        strategy_of(2),
        tf.distribute.MirroredStrategy(devices),
        strategy_of(2),
        plain(
            cluster_resolver=tf.distribute.cluster_resolver.SimpleClusterResolver(
                tf.train.ClusterSpec({})
            )
        ),
        tf.distribute.MirroredStrategy(devices),
    ]
    bases = [each.extended._collective_key_base for each in strategies]
    apart = sorted(bases)
    for one, other in pairwise(apart):
        assert other - one >= KEYS_PER_STRATEGY
    assert [base >= MIRRORED_KEY_BASE for base in bases] == [False, True, False, False, True]
    for base, strategy in zip(bases, strategies, strict=True):
        keys = strategy.extended._collective_keys
        assert base < keys.get_group_key(["new"]) < base + KEYS_PER_STRATEGY
        # Instances are counted by group.
        assert keys.get_instance_key(keys.get_group_key(["new"]), "new") == 100


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


def test_replica_contexts(strategy_of):
    assert replica_context() is None
    seen = []

    @tf.function
    def run():
        return strategy_of(2).run(lambda: seen.append(local_replica(replica_context())))

    run()
    assert sorted(seen) == [0, 1]


def test_replicas_update_without_meeting(strategy_of):
    assert not strategy_of(2).extended._use_merge_call()
    assert distribute_lib.get_update_replica_id() is None


# Variables.


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


# Clusters.


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


def test_collectives_can_be_aborted():
    assert parameters(context.Context.abort_collective_ops) == ["self", "code", "message"]


def test_whether_devices_were_made(strategy_of):
    strategy_of(1)
    assert context.context()._initialized is True and initialised()


def test_options_of_collectives_have_no_timeout():
    assert collective_util.Options().timeout_seconds is None


def test_recording_stops_for_initial_values():
    with tf.GradientTape() as tape:
        variable = tf.Variable(2.0)
        with record.stop_recording():
            y = variable * 3
    assert tape.gradient(y, variable) is None


# Keras.


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("_backend_apply_gradients", ["self", "grads", "trainable_variables"]),
        ("_all_reduce_sum_gradients", ["self", "grads_and_vars"]),
        ("_clip_gradients", ["self", "grads"]),
        ("apply", ["self", "grads", "trainable_variables"]),
        (
            "add_variable_from_reference",
            ["self", "reference_variable", "name", "initializer"],
        ),
    ],
)
def test_methods_of_optimizers_that_are_replaced(method, expected):
    found = getattr(keras.optimizers.Optimizer, method)
    assert parameters(getattr(found, "of_keras", found)) == expected


def test_other_parts_of_optimizers():
    optimizer = keras.optimizers.Adam()
    assert parameters(optimizer._get_variable_index) == ["variable"]
    assert optimizer._distribution_strategy is tf.distribute.get_strategy()
    assert (optimizer.clipnorm, optimizer.global_clipnorm, optimizer.clipvalue) == (None,) * 3


def test_gradients_are_clipped_by_the_method_that_is_replaced():
    class Recording(keras.optimizers.SGD):
        def _clip_gradients(self, grads):
            called.append(("clip", len(grads)))
            return super()._clip_gradients(grads)

        def _backend_apply_gradients(self, grads, trainable_variables):
            called.append(("apply", len(grads)))
            return super()._backend_apply_gradients(grads, trainable_variables)

        def _all_reduce_sum_gradients(self, grads_and_vars):
            grads_and_vars = list(grads_and_vars)
            called.append(("sum", len(grads_and_vars)))
            return super()._all_reduce_sum_gradients(grads_and_vars)

    called = []
    Recording(1.0).apply([tf.constant([1.0])], [keras.Variable([0.0])])
    assert called == [("apply", 1), ("clip", 1), ("sum", 1)]


def test_loss_tracker_of_models():
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(np.zeros([2, 2]), np.zeros([2, 1]), verbose=0)
    assert isinstance(model._loss_tracker, keras.metrics.Mean)
    assert model._loss_tracker.name == "loss"


def test_name_of_random_states():
    state = keras.random.SeedGenerator(7).state
    assert state.name == SEED_STATE == "seed_generator_state"
    assert state.shape == (2,)
    assert state.numpy().tolist() == [7, 0]  # seed and counter


def test_steps_are_told_from_plain_calls():
    """Keras takes its steps in `strategy.run`, with the default strategy too."""
    assert issubclass(distribute_lib._DefaultReplicaContext, tf.distribute.ReplicaContext)
    assert not collectives.in_step()
    found = []
    tf.function(lambda: found.append(collectives.in_step()))()
    tf.distribute.get_strategy().run(lambda: found.append(collectives.in_step()))
    inputs = keras.Input([2])
    layer = keras.layers.Lambda(lambda x: found.append(collectives.in_step()) or x)
    model = keras.Model(inputs, layer(inputs))
    del found[2:]  # of the symbolic call
    model.compile(loss="mse")
    model.evaluate(np.zeros([2, 2]), np.zeros([2, 2]), verbose=0)
    assert found == [False, True, True]


def test_whether_xla_compiles():
    found = []

    def note(x):
        found.append(compiles_for_xla())
        return x

    inner = tf.function(note)
    for compiles in (True, False):
        tf.function(note, jit_compile=compiles)(1.0)
        tf.function(lambda x: inner(x), jit_compile=compiles)(1.0 + compiles)
    note(1.0)
    assert found == [True, True, False, False, False]


@pytest.mark.parametrize("compiles", [True, False])
def test_whether_keras_compiles_for_xla(compiles):
    found = []
    inputs = keras.Input([2])
    outputs = keras.layers.Lambda(lambda x: found.append(compiles_for_xla()) or x)(inputs)
    model = keras.Model(inputs, outputs)
    model.compile(loss="mse", jit_compile=compiles)
    found.clear()  # of the symbolic call
    model.evaluate(np.zeros([2, 2]), np.zeros([2, 2]), verbose=0)
    assert found == [compiles]


def test_whether_a_loop_is_traced():
    found = []

    def note(x):
        found.append(in_while_loop())
        return x

    def loop(body):
        return tf.while_loop(lambda i: i < 2, lambda i: [body(i) + 1], [tf.constant(0)])

    def branches(x):
        return tf.cond(x > 0, lambda: note(x), lambda: note(x))

    nested = tf.function(note)
    for body, expected in (
        (note, [True]),
        (branches, [True, True]),
        (lambda x: nested(x), [True]),
        (lambda x: loop(note)[0] + x, [True]),
    ):
        found.clear()
        tf.function(lambda body=body: loop(body))()
        assert found == expected
    found.clear()
    tf.function(lambda: note(loop(lambda i: i)[0]))()
    tf.function(lambda: branches(tf.constant(1)))()
    loop(note)  # runs eagerly, twice
    assert found == [False] * 5


# The methods of Keras that are replaced for models and variables.


def test_scope_of_a_model(strategy_of):
    strategy = strategy_of(2)
    with strategy.scope():
        model = keras.Sequential([keras.layers.Dense(1)])
    assert model._distribute_strategy is strategy
    assert keras.Sequential([keras.layers.Dense(1)])._distribute_strategy is None


def test_variables_are_initialised_later_in_a_stateless_scope():
    with keras.StatelessScope():
        variable = keras.Variable(lambda shape, dtype: tf.ones(shape, dtype), shape=(2,))
        assert variable._value is None
    np.testing.assert_array_equal(variable.numpy(), [1, 1])
    assert parameters(keras.Variable._deferred_initialize.of_keras) == ["self"]
