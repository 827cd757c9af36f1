"""Mixed data and expert parallelism (section 3.1 of the paper) for `model.fit`."""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tfmoe.distribute import (
    collectives,
    keras_files,
    keras_models,
    keras_optimizer,
    keras_variables,
    tensorflow_internals,
)


class MixedStrategy(tf.distribute.MultiWorkerMirroredStrategy):
    """Trains a mixture of experts on several devices with mixed data and expert parallelism.

    Ordinary layers and gates are data-parallel: every device has a copy and processes its rows of
    each batch. Each expert exists once: the experts are sharded over the same devices, and an
    all-to-all sends every token to the devices of its experts and back (section 3.1).

    The strategy works with any Keras model that contains mixtures of this library. The code of the
    model does not change:

        strategy = tfmoe.distribute.MixedStrategy()
        with strategy.scope():
            model = …
            model.compile(optimizer, …)
        model.fit(batches, …)

    Training gives the results that one device would give on the same batches: losses, metrics,
    norms of clipped gradients and thresholds are those of the global batch. Noise and dropout are
    drawn separately on each replica.

    Every batch of a dataset passed to `fit`, `evaluate` or `predict` is a global batch of B rows.
    Replica r of R processes rows `B·r//R` to `B·(r+1)//R`, none if B < R. Each worker reads the
    whole dataset, which must be the same on all workers (seed its shuffling); `distribute_rows`
    takes a dataset of the worker's rows instead. As with every strategy, the loss of a Keras model
    with `compile(loss=…)` is the mean of the replicas' means, so use batch sizes that R divides.
    The models of `tfmoe.models` accept any batch size.

    `variable.numpy()`, saving and loading use one logical tensor with all experts. With several
    workers, reading a sharded variable outside of `run` is a collective operation: every worker
    must call `save` or `save_weights`, each with a different path.

    Args:
        devices: local devices, such as `["GPU:0", "GPU:1"]`; `None` for the cluster; without a
            cluster all GPUs, or the CPU.
        cluster_resolver: a `tf.distribute.cluster_resolver.ClusterResolver` (Slurm, Kubernetes, …);
            `None` for the cluster in the environment variable `TF_CONFIG`, if it is set. Create the
            strategy before any other use of TensorFlow.
        start_timeout_seconds: the time to wait for the other workers to start. A worker that is
            lost later is detected within seconds: all operations of the other workers then fail
            with a `tf.errors.UnavailableError`.

    Raises:
        ValueError: a device does not exist, or both `devices` and a `cluster_resolver` are given.
    """

    def __init__(
        self,
        devices: Sequence[str] | None = None,
        cluster_resolver: tf.distribute.cluster_resolver.ClusterResolver | None = None,
        start_timeout_seconds: int = 300,
    ):
        if devices is not None:
            check_devices(devices)
            # TensorFlow numbers the devices of a group by name, whatever their order here.
            devices = sorted(devices, key=lambda name: (len(name), name))
        for module in (keras_files, keras_models, keras_optimizer, keras_variables):
            module.install()
        extended = tensorflow_internals.MixedExtended(
            self,
            None if devices is None else tuple(devices),
            cluster_resolver,
            start_timeout_seconds,
        )
        tf.distribute.Strategy.__init__(self, extended)
        form_groups(self)

    @property
    def num_workers(self) -> int:
        """The number of processes in the cluster; 1 without a cluster."""
        return self.extended.num_workers

    @property
    def worker(self) -> int:
        """The index of this process, from 0; worker 0 writes the files."""
        return self.extended.worker

    def sum_over_workers(self, number):
        """Sums a Python number over all workers. Every worker must call it.

        Args:
            number: this worker's summand.
        """
        return tensorflow_internals.host_sum(self, number)

    def experimental_distribute_dataset(
        self, dataset: tf.data.Dataset, options=None
    ) -> tf.distribute.DistributedDataset:
        """Gives each replica its rows of every batch; see the class.

        Args:
            dataset: yields global batches.
            options: `tf.distribute.InputOptions`, or `None`.
        """

        def rows(first, num_local, replicas):
            def split(*batch):
                batch = batch[0] if len(batch) == 1 else batch
                datasets = [
                    tf.data.Dataset.from_tensors(rows_of(batch, replica, replicas))
                    for replica in range(first, first + num_local)
                ]
                result = datasets[0]
                for other in datasets[1:]:
                    result = result.concatenate(other)
                return result

            return dataset.flat_map(split)

        return self.distribute_rows(rows, options)

    def distribute_rows(
        self, rows: Callable[[int, int, int], tf.data.Dataset], options=None
    ) -> tf.distribute.DistributedDataset:
        """Distributes batches of which each worker reads only its own rows.

        Args:
            rows: function of `(first, num_local, R)` that returns a dataset: of each batch, the
                rows of replica `first`, then those of `first + 1`, …, `first + num_local - 1`.
                Replica r gets rows `B·r//R` to `B·(r+1)//R`.
            options: `tf.distribute.InputOptions`, or `None`.
        """
        num_local = len(self.extended.worker_devices)
        dataset = rows(self.worker * num_local, num_local, self.num_replicas_in_sync)
        return self.distribute_datasets_from_function(
            lambda _: dataset.prefetch(2 * num_local), options
        )

    def reduce(self, reduce_op, value, axis):
        """As `tf.distribute.Strategy.reduce`, extended for the calls of Keras: scalars with
        `axis=0`, and whole batches (structures), whose shapes Keras reads.

        Args:
            reduce_op: a `tf.distribute.ReduceOp`.
            value: a value for each replica, or a structure of them.
            axis: the axis to reduce within each replica; `None` for none.
        """
        if tf.nest.is_nested(value):  # no collective: parts of other workers may differ in shape
            return tf.nest.map_structure(lambda x: self.experimental_local_results(x)[0], value)
        local_values = self.experimental_local_results(value)
        if len({tuple(local.shape) for local in local_values}) > 1:
            return local_values[0]  # R does not divide the batch; Keras reads the shape only
        if local_values[0].shape.rank == 0:
            axis = None
        return super().reduce(reduce_op, value, axis)


def check_devices(devices):
    """Raises a `ValueError` that names a device that does not exist."""
    if not devices:
        raise ValueError("devices must not be empty; None selects all devices of this machine")
    full_names = [device.name for device in tf.config.list_logical_devices()]
    names = [name.partition("device:")[2] for name in full_names]
    for device in devices:
        if device.removeprefix("/").removeprefix("device:") not in names:
            raise ValueError(f"devices: {device!r} does not exist; available: {', '.join(names)}")


def form_groups(strategy):
    """Runs the first collective operations of a strategy, on every worker.

    TensorFlow forms a group of devices in the first operation of the group. If a training step
    failed before that, the group would stay cancelled, and later all collectives of the process
    would fail. So these operations run before any step.

    Raises:
        RuntimeError: collective operations order the replicas differently from the strategy, so
            rows would reach the wrong experts (TensorFlow may order GPUs by their interconnect); or
            the collectives of this process have failed earlier.
    """

    @tf.function
    def gather():
        return strategy.run(lambda: collectives.all_gather(tf.constant(collectives.replica_id())))

    try:
        with tf.init_scope():
            order = np.ravel(strategy.experimental_local_results(gather())[0]).tolist()
            strategy.sum_over_workers(0)
    except tf.errors.OpError as error:
        if strategy.num_workers > 1:
            raise
        raise RuntimeError(
            "TensorFlow's collectives failed earlier in this process and cannot be reset: restart "
            "the process (in a notebook, the kernel)"
        ) from error
    if order != [*range(strategy.num_replicas_in_sync)]:
        raise RuntimeError(
            f"TensorFlow's collectives order the devices as {order}, not by their indices; set "
            "CUDA_VISIBLE_DEVICES to this order"
        )


def rows_of(batch, replica, replicas):
    """Selects the rows of a batch for one replica.

    Args:
        batch: structure of tensors `[B, ...]`; every replica gets scalars unchanged.
        replica: r.
        replicas: R.
    """
    sizes = [tf.shape(tensor)[0] for tensor in tf.nest.flatten(batch) if tensor.shape.rank != 0]
    if not sizes:
        return batch
    begin, end = sizes[0] * replica // replicas, sizes[0] * (replica + 1) // replicas
    return tf.nest.map_structure(
        lambda tensor: tensor if tensor.shape.rank == 0 else tensor[begin:end], batch
    )
