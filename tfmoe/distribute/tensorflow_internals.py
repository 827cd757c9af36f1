"""Everything of TensorFlow's private interface that the mixed strategy is built on.

TensorFlow's collective strategy already has what data parallelism needs, on one host or many:
replica threads, mirrored variables, all-reduce by NCCL or ring, a cluster. Added here: variables of
which each replica holds a part, collectives other than all-reduce, random states that differ by
replica. `tests/distribute/test_tensorflow_internals.py` names what is relied upon.
"""

import itertools

import tensorflow as tf
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.python.distribute import (
    collective_all_reduce_strategy,
    collective_util,
    distribute_lib,
    multi_worker_util,
    values,
)
from tensorflow.python.eager import context, record
from tensorflow.python.ops import (
    collective_ops,
    control_flow_util,
    control_flow_v2_func_graphs,
)

from tfmoe.distribute.failures import wait_for_addresses
from tfmoe.distribute.shards import draws_alike, shard_bounds, sharding_unit

# As `keras.random.SeedGenerator` names its state, `[seed, counter]`.
SEED_STATE = "seed_generator_state"
# After which a worker that does not answer counts as gone.
HEARTBEAT_TIMEOUT_SECONDS = 20
# Random states of two replicas lie so far apart in the seed (a prime: seeds of users do not meet).
SEED_DISTANCE = 1_000_003
# TensorFlow tells groups of devices apart by numbers, which a strategy counts from its base.
KEYS_PER_STRATEGY = 1_000
# Far beyond the bases of any `MixedStrategy`.
MIRRORED_KEY_BASE = 1_000_000_000


def next_key_base():
    """The base of a new `MixedStrategy`, which no other strategy of this process shares.

    TensorFlow's class keeps the count, so reloading this module does not reset it. Workers that
    make the same strategies in the same order get the same numbers.
    """
    kind = tf.distribute.MultiWorkerMirroredStrategy
    base = kind._collective_key_base + KEYS_PER_STRATEGY
    kind._collective_key_base = base + KEYS_PER_STRATEGY
    return base


def number_mirrored_strategies():
    """Gives every `tf.distribute.MirroredStrategy` a base of its own.

    By default all of them count from 0, so the second one in a process continues collectives of the
    first, fails with "Shape mismatch in the collective instance 100", and disables the collectives
    of the whole process: https://github.com/tensorflow/tensorflow/issues/62790.
    """
    kind = tf.distribute.MirroredStrategy
    if not isinstance(vars(kind)["_collective_key_base"], property):
        bases = itertools.count(MIRRORED_KEY_BASE, KEYS_PER_STRATEGY)
        kind._collective_key_base = property(lambda strategy: next(bases))


number_mirrored_strategies()


def replica_context():
    """The replica context of a strategy that code runs in, or `None` outside of any."""
    found = tf.distribute.get_replica_context()
    return found if found is not None and tf.distribute.has_strategy() else None


def in_step():
    """Whether code runs within `strategy.run`, in which Keras takes every step of fit, evaluate and
    predict, with the default strategy too; a plain call or an export of a model is outside.
    """
    found = tf.distribute.get_replica_context()
    return found is not None and not isinstance(found, distribute_lib._DefaultReplicaContext)


def compiles_for_xla():
    """Whether this code is being traced into a function that XLA compiles:
    `tf.function(jit_compile=True)`, also one around the function that is traced, and what Keras
    makes of `compile(jit_compile=True)`.
    """
    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def in_while_loop():
    """Whether this code is being traced into the body of a `tf.while_loop`, however deep."""
    graph = tf.compat.v1.get_default_graph()
    while graph is not None:
        if isinstance(graph, control_flow_v2_func_graphs.WhileBodyFuncGraph):
            return True
        graph = getattr(graph, "outer_graph", None)
    return False


def local_replica(found):
    """The number of a replica among those of its process, of its replica context."""
    return tf.get_static_value(found._replica_id)


class _PartedVariable(values.DistributedVariable):
    """A variable of which the replicas hold different values.

    In a replica it is that replica's value; outside, one logical value, which a subclass makes from
    all and divides among all (`logical_value`, `divide`).
    """

    def __init__(self, strategy, parts):
        super().__init__(strategy, parts, tf.VariableAggregation.NONE)

    def logical_value(self):
        raise NotImplementedError

    def divide(self, value):
        """The local replicas' parts of a logical value."""
        raise NotImplementedError

    def local_parts(self):
        """The `tf.Variable`s of this process's replicas."""
        return self._values

    def _in_replica(self):
        return (
            replica_context() is not None or distribute_lib.get_update_replica_id() is not None
        ) and tf.distribute.get_strategy() is self._distribute_strategy

    def _get(self):
        return self._get_on_device_or_primary() if self._in_replica() else self.logical_value()

    _get_cross_replica = logical_value

    def _dense_var_to_tensor(self, dtype=None, name=None, as_ref=False):
        return tf.convert_to_tensor(self._get(), dtype=dtype, name=name)

    def value(self):
        return tf.convert_to_tensor(self._get())

    def read_value(self):
        return tf.identity(self._get())

    def numpy(self):
        return self.value().numpy()

    def _as_graph_element(self):
        return tf.convert_to_tensor(self._get())

    def _update_replica(self, update_fn, value, **kwargs):
        return update_fn(self._get_on_device_or_primary(), value, **kwargs)

    def _update(self, update_fn, value, **kwargs):
        if self._in_replica():
            return self._update_replica(update_fn, value, **kwargs)
        for variable, part in zip(self._values, self.divide(value), strict=True):
            with tf.device(variable.device):
                update_fn(variable, part, **{**kwargs, "read_value": False})
        return self


class ShardedVariable(_PartedVariable):
    """A variable whose first axis is divided over the replicas.

    Args:
        strategy: the `MixedStrategy`.
        parts: the `tf.Variable`s of this process's replicas.
        shape: of the whole.
        bounds: `(begin, end)` on the first axis, for every replica of the cluster.
    """

    def __init__(self, strategy, parts, shape, bounds):
        self.bounds = bounds
        self._whole_shape = tf.TensorShape(shape)
        super().__init__(strategy, parts)

    def local_bounds(self):
        """`(begin, end)` of this process's parts."""
        extended = self._distribute_strategy.extended
        first = extended._get_replica_id_in_sync_group(0)
        return self.bounds[first : first + len(self._values)]

    @property
    def shape(self):
        return self._whole_shape

    def get_shape(self):
        return self._whole_shape

    def logical_value(self):
        """The whole, `[E, …]`: with several workers a collective, to be called by all of them."""
        whole = tf.concat([tf.convert_to_tensor(part) for part in self._values], axis=0)
        extended = self._distribute_strategy.extended
        if not extended._in_multi_worker_mode():
            return whole
        if not tf.executing_eagerly():
            raise ValueError(
                f"{self._common_name} lies on several workers and cannot be read as a whole in a "
                "graph outside of strategy.run"
            )
        begin, end = self.local_bounds()[0][0], self.local_bounds()[-1][1]
        paddings = [[begin, self.shape[0] - end]] + [[0, 0]] * (self.shape.rank - 1)
        return host_sum(self._distribute_strategy, tf.pad(whole, paddings))

    def divide(self, value):
        value = tf.convert_to_tensor(value)
        if value.shape.rank == 0:
            return [value] * len(self._values)
        return [value[begin:end] for begin, end in self.local_bounds()]

    def _export_to_saved_model_graph(self, *args, **kwargs):
        raise ValueError(
            f"{self._common_name} is sharded: a SavedModel holds whole variables. Export a copy, "
            "tfmoe.distribute.on_one_device(model).export(path)"
        )

    def _update_replica(self, update_fn, value, **kwargs):
        part = self._get_on_device_or_primary()
        if getattr(value, "shape", None) == self.shape != part.shape:  # the whole: zeros, say
            index = [each is part for each in self._values].index(True)
            value = self.divide(value)[index]
        return update_fn(part, value, **kwargs)


class ReplicaSeeds(_PartedVariable):
    """The state `[seed, counter]` of a random generator, with a seed of its own in each replica.

    The logical value is that of replica 0, which draws what a single device would.
    """

    def logical_value(self):
        return self._values[0].value() - self._offsets()[0]

    def divide(self, value):
        value = tf.convert_to_tensor(value)
        return [value + offset for offset in self._offsets()]

    def _offsets(self):
        extended = self._distribute_strategy.extended
        return [
            tf.constant([extended._get_replica_id_in_sync_group(i) * SEED_DISTANCE, 0], self.dtype)
            for i in range(len(self._values))
        ]


def _as_tensor(variable, dtype=None, name=None, as_ref=False):
    return variable._dense_var_to_tensor(dtype=dtype, name=name, as_ref=as_ref)


for _kind in (ShardedVariable, ReplicaSeeds):
    tf.register_tensor_conversion_function(_kind, _as_tensor)


class MixedExtended(collective_all_reduce_strategy.CollectiveAllReduceExtended):
    """The collective strategy with sharded variables."""

    def __init__(self, strategy, devices, cluster_resolver, start_timeout_seconds):
        self._start_timeout_seconds = start_timeout_seconds
        strategy._collective_key_base = next_key_base()
        # No timeout of their own for collective operations: TensorFlow starts a thread for each
        # that has one, which sleeps until then.
        super().__init__(strategy, cluster_resolver, collective_util.Options(), devices)
        # Every replica gets a share of every batch, if an empty one: see `MixedStrategy`.
        self.experimental_enable_get_next_as_optional = False

    def _initialize_multi_worker(self, cluster_resolver):
        """Has TensorFlow's coordination service watch over the workers, as the base class would,
        with times of our own.
        """
        cluster = multi_worker_util.normalize_cluster_spec(cluster_resolver.cluster_spec())
        if context.context().coordination_service is None:
            context.context().configure_coordination_service(
                service_type="standalone",
                service_leader=multi_worker_util.coordination_leader(cluster),
                coordinated_jobs=[
                    coordination_config_pb2.CoordinatedJob(
                        name=job, num_tasks=cluster.num_tasks(job)
                    )
                    for job in cluster.jobs
                ],
                cluster_register_timeout_in_ms=1000 * self._start_timeout_seconds,
                heartbeat_timeout_in_ms=1000 * HEARTBEAT_TIMEOUT_SECONDS,
            )
        if cluster_resolver.task_id == 0:  # the others listen before they call worker 0
            addresses = cluster_resolver.cluster_spec().job_tasks("worker")
            others = {f"worker {i}": each for i, each in enumerate(addresses) if i > 0}
            wait_for_addresses(others, self._start_timeout_seconds)
        super()._initialize_multi_worker(cluster_resolver)

    def _use_merge_call(self):
        """Replicas update their own variables without meeting: what they add is the same."""
        return False

    def _create_variable(self, next_creator, **kwargs):
        colocated = kwargs.get("colocate_with")
        if isinstance(colocated, ShardedVariable):
            return self._create_sharded(next_creator, colocated.bounds, **kwargs)
        together = sharding_unit()
        if together is not None:
            return self._create_sharded(next_creator, None, together=together, **kwargs)
        if kwargs.get("name") == SEED_STATE and not draws_alike():
            return self._create_seeds(next_creator, **kwargs)
        if kwargs.get("aggregation") == tf.VariableAggregation.ONLY_FIRST_REPLICA:
            # What is assigned is the same in all replicas: nothing needs to be sent.
            kwargs["aggregation"] = tf.VariableAggregation.NONE
        return super()._create_variable(next_creator, **kwargs)

    def _create_sharded(self, next_creator, bounds, together=1, **kwargs):
        whole = _initial_value(kwargs)
        if whole.shape.rank == 0:
            raise ValueError(
                f"{kwargs.get('name')} is a scalar: only variables with a first axis can be sharded"
            )
        if bounds is None or bounds[-1][1] != whole.shape[0]:
            bounds = shard_bounds(whole.shape[0], self._num_replicas_in_sync, together)
        first = self._get_replica_id_in_sync_group(0)
        slices = [
            whole[begin:end] for begin, end in bounds[first : first + len(self.worker_devices)]
        ]
        parts = self._create_parts(next_creator, slices, first, **kwargs)
        return ShardedVariable(self._container_strategy(), parts, whole.shape, bounds)

    def _create_seeds(self, next_creator, **kwargs):
        state = _initial_value(kwargs)
        first = self._get_replica_id_in_sync_group(0)
        states = [
            state + tf.constant([replica * SEED_DISTANCE, 0], state.dtype)
            for replica in range(first, first + len(self.worker_devices))
        ]
        parts = self._create_parts(next_creator, states, first, **kwargs)
        return ReplicaSeeds(self._container_strategy(), parts)

    def _create_parts(self, next_creator, initial_values, first, **kwargs):
        for name in ("colocate_with", "synchronization", "aggregation", "initial_value", "shape"):
            kwargs.pop(name, None)
        name = kwargs.pop("name", None) or "variable"
        parts = []
        for i, (device, value) in enumerate(zip(self.worker_devices, initial_values, strict=True)):
            with tf.device(device), record.stop_recording():
                part = next_creator(initial_value=value, name=f"{name}/part_{first + i}", **kwargs)
            parts.append(part)
        return parts


def _initial_value(kwargs):
    value = kwargs["initial_value"]
    dtype = kwargs.get("dtype")
    return tf.convert_to_tensor(value() if callable(value) else value, dtype=dtype)


def collective(name, x, found):
    """Runs a collective operation in a replica.

    Args:
        name: `"sum"`: of `x` of all replicas; `"gather"`: `x` of all replicas, concatenated along
            the first axis; `"exchange"`: `x[i]` goes to replica i, `y[i]` comes from replica i.
        x: a tensor, of the same shape in all replicas; of known rank.
        found: the replica context.

    Returns:
        A tensor.
    """
    extended = found.strategy.extended
    launcher = extended._cross_device_ops._launchers[local_replica(found)]
    if name == "sum":
        return launcher.all_reduce(x)
    arguments = {
        "group_size": launcher._group_size,
        "group_key": launcher._group_key,
        "instance_key": launcher._next_instance_key(),
        "communication_hint": launcher._options.implementation.value,
        "ordering_token": launcher._get_ordering_token(),
    }
    operations = {"gather": collective_ops.all_gather_v2, "exchange": collective_ops.all_to_all_v2}
    with tf.device(launcher._device):
        return operations[name](x, **arguments)


def host_sum(strategy, x):
    """The sum of a tensor or number over the workers, outside of their replicas."""
    extended = strategy.extended
    if not extended._in_multi_worker_mode():
        return x
    with tf.device(extended._worker_device):
        x = tf.identity(x)
    return extended._host_cross_device_ops.reduce(tf.distribute.ReduceOp.SUM, x, x)


def abort_collectives(message):
    """Makes all collective operations of this process fail, those that are waiting too."""
    context.context().abort_collective_ops(tf.errors.DEADLINE_EXCEEDED, message)


def initialised():
    """Whether TensorFlow has made its devices already, so that they cannot be changed."""
    return context.context()._initialized
