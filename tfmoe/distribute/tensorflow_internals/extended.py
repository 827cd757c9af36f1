"""The implementation of `MixedStrategy`: TensorFlow's collective strategy and sharded variables."""

import tensorflow as tf
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.python.distribute import (
    collective_all_reduce_strategy,
    collective_util,
    multi_worker_util,
)
from tensorflow.python.eager import context, record

from tfmoe.distribute.failures import wait_for_addresses
from tfmoe.distribute.initial_value import InitialValue
from tfmoe.distribute.shards import Sharding, current_sharding, in_same_draws
from tfmoe.distribute.tensorflow_internals.key_bases import next_key_base
from tfmoe.distribute.tensorflow_internals.variables import (
    SEED_DISTANCE,
    ReplicaSeeds,
    ShardedVariable,
)

# The name of the state `[seed, counter]` of a `keras.random.SeedGenerator`.
SEED_STATE = "seed_generator_state"
# A worker that does not respond for this time counts as lost.
HEARTBEAT_TIMEOUT_SECONDS = 20


class MixedExtended(collective_all_reduce_strategy.CollectiveAllReduceExtended):
    """The collective strategy with sharded variables."""

    def __init__(self, strategy, devices, cluster_resolver, start_timeout_seconds):
        self._start_timeout_seconds = start_timeout_seconds
        strategy._collective_key_base = next_key_base()
        # Collective operations have no timeouts: for each timeout TensorFlow would start a thread
        # that sleeps until it expires.
        super().__init__(strategy, cluster_resolver, collective_util.Options(), devices)
        # Every replica gets a part of every batch, possibly an empty one: see `MixedStrategy`.
        self.experimental_enable_get_next_as_optional = False

    @property
    def num_workers(self):
        """The number of processes in the cluster; 1 without a cluster."""
        return self._num_workers

    @property
    def worker(self):
        """The index of this process, from 0."""
        return self._id_in_cluster

    def _initialize_multi_worker(self, cluster_resolver):
        """Starts TensorFlow's coordination service as the base class does, with other timeouts."""
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
            others = {f"worker {i}": address for i, address in enumerate(addresses) if i > 0}
            wait_for_addresses(others, self._start_timeout_seconds)
        super()._initialize_multi_worker(cluster_resolver)

    def _use_merge_call(self):
        """Replicas update their variables without a merge call: their updates are identical."""
        return False

    def _create_variable(self, next_creator, **kwargs):
        colocated = kwargs.get("colocate_with")
        is_slot = isinstance(colocated, ShardedVariable)
        sharding = Sharding() if is_slot else current_sharding()
        if sharding is not None:
            value = kwargs["initial_value"] = _initial_value(kwargs)
            if not value.shape:
                raise ValueError(
                    f"{kwargs.get('name')} is a scalar: only variables with a first axis can be "
                    "sharded"
                )
            bounds = self._bounds_of(value, sharding, colocated.bounds if is_slot else None)
            if bounds is not None:
                return self._create_sharded(next_creator, bounds, **kwargs)
        if kwargs.get("name") == SEED_STATE and not in_same_draws():
            return self._create_seeds(next_creator, **kwargs)
        if kwargs.get("aggregation") == tf.VariableAggregation.ONLY_FIRST_REPLICA:
            # All replicas assign the same value: nothing needs to be sent.
            kwargs["aggregation"] = tf.VariableAggregation.NONE
        return super()._create_variable(next_creator, **kwargs)

    def _bounds_of(self, value, sharding, bounds_of_variable):
        """`(begin, end)` of each replica; `None` if a replica holds the whole variable. Slots of an
        optimizer are divided like their variable if they have as many rows.
        """
        length = value.shape[0]
        if bounds_of_variable is not None and bounds_of_variable[-1][1] == length:
            return bounds_of_variable
        return sharding.bounds(length, self._num_replicas_in_sync)

    def _create_sharded(self, next_creator, bounds, **kwargs):
        value = kwargs["initial_value"]
        first = self._get_replica_id_in_sync_group(0)
        rows = value.rows(bounds[first : first + len(self.worker_devices)])
        parts = self._create_parts(next_creator, rows, first, **kwargs)
        return ShardedVariable(self._container_strategy(), parts, value.shape, bounds)

    def _create_seeds(self, next_creator, **kwargs):
        state = tf.convert_to_tensor(_initial_value(kwargs)(), kwargs.get("dtype"))
        first = self._get_replica_id_in_sync_group(0)
        states = (
            state + tf.constant([replica * SEED_DISTANCE, 0], state.dtype)
            for replica in range(first, first + len(self.worker_devices))
        )
        parts = self._create_parts(next_creator, states, first, **kwargs)
        return ReplicaSeeds(self._container_strategy(), parts)

    def _create_parts(self, next_creator, initial_values, first, **kwargs):
        for name in ("colocate_with", "synchronization", "aggregation", "initial_value", "shape"):
            kwargs.pop(name, None)
        name = kwargs.pop("name", None) or "variable"
        parts = []
        for i, device in enumerate(self.worker_devices):
            with tf.device(device), record.stop_recording():
                part = next_creator(
                    initial_value=tf.convert_to_tensor(next(initial_values), kwargs.get("dtype")),
                    name=f"{name}/part_{first + i}",
                    **kwargs,
                )
            parts.append(part)
        return parts


def _initial_value(kwargs):
    """The `InitialValue` of a variable."""
    value = kwargs["initial_value"]
    if isinstance(value, InitialValue):
        return value
    whole = tf.convert_to_tensor(value() if callable(value) else value, kwargs.get("dtype"))
    return InitialValue(lambda *_, **__: whole, tuple(whole.shape), whole.dtype.name)
