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
from tfmoe.distribute.shards import in_same_draws, shard_bounds, sharding_unit
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
        if isinstance(colocated, ShardedVariable):
            return self._create_sharded(next_creator, colocated.bounds, **kwargs)
        unit = sharding_unit()
        if unit is not None:
            return self._create_sharded(next_creator, None, unit=unit, **kwargs)
        if kwargs.get("name") == SEED_STATE and not in_same_draws():
            return self._create_seeds(next_creator, **kwargs)
        if kwargs.get("aggregation") == tf.VariableAggregation.ONLY_FIRST_REPLICA:
            # All replicas assign the same value: nothing needs to be sent.
            kwargs["aggregation"] = tf.VariableAggregation.NONE
        return super()._create_variable(next_creator, **kwargs)

    def _create_sharded(self, next_creator, bounds, unit=1, **kwargs):
        whole = _initial_value(kwargs)
        if whole.shape.rank == 0:
            raise ValueError(
                f"{kwargs.get('name')} is a scalar: only variables with a first axis can be sharded"
            )
        if bounds is None or bounds[-1][1] != whole.shape[0]:
            bounds = shard_bounds(whole.shape[0], self._num_replicas_in_sync, unit)
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
