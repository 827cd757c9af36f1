"""Mixed data and expert parallelism (section 3.1 of the paper) for `model.fit`."""

import numpy as np
import tensorflow as tf

from tfmoe.distribute import (
    collectives,
    keras_models,
    keras_optimizer,
    keras_variables,
    tensorflow_internals,
)


class MixedStrategy(tf.distribute.MultiWorkerMirroredStrategy):
    """Ordinary layers and gates are data-parallel; each expert exists once, sharded over the same
    devices, and examples travel to their experts all-to-all (section 3.1).

    For Keras models with mixtures of this library, whose code does not change:

        strategy = tfmoe.distribute.MixedStrategy()
        with strategy.scope():
            model = …
            model.compile(optimizer, …)
        model.fit(batches, …)

    What is trained equals what one device would train on the same batches: losses, metrics, norms
    of clipped gradients and thresholds are those of the global batch. Noise and dropout are drawn
    for each replica by itself.

    Every batch of a dataset given to `fit`, `evaluate` or `predict` is a global one: replica r of R
    takes its rows from `B·r//R` to `B·(r+1)//R`, none where B < R. Each worker reads the whole
    dataset, which must be the same on all of them (seed its shuffling). The batch loss of a Keras
    model with `compile(loss=…)` is the mean of the replicas' means, as with every strategy: give it
    batches that R divides. Those of `tfmoe.models` take any.

    Variables: `tensor = variable.numpy()`, saving and loading see one logical tensor with all
    experts. With several workers, reading a sharded variable outside of `run` is a collective: all
    workers must do it, so all must call `save` or `save_weights`, to a path of their own.

    Args:
        devices: list of local devices, such as `["GPU:0", "GPU:1"]`; `None` for the cluster, or
            else all GPUs, or the CPU.
        cluster_resolver: a `tf.distribute.cluster_resolver.ClusterResolver` (Slurm, Kubernetes, …);
            `None` for the cluster in the environment variable TF_CONFIG, if there is one. The
            strategy must then be made before any other use of TensorFlow.
        start_timeout_seconds: how long to wait for the other workers at the beginning. One that is
            gone later is noticed within seconds: all operations of the others fail with a
            `tf.errors.UnavailableError`.

    Raises:
        ValueError: for a device that does not exist, and for devices together with a
            `cluster_resolver`.
    """

    def __init__(self, devices=None, cluster_resolver=None, start_timeout_seconds=300):
        if devices is not None:
            check_devices(devices)
            # TensorFlow numbers the devices of a group by name, whatever their order here.
            devices = sorted(devices, key=lambda name: (len(name), name))
        for part_of_keras in (keras_models, keras_optimizer, keras_variables):
            part_of_keras.install()
        extended = tensorflow_internals.MixedExtended(
            self,
            None if devices is None else tuple(devices),
            cluster_resolver,
            start_timeout_seconds,
        )
        tf.distribute.Strategy.__init__(self, extended)
        form_groups(self)

    @property
    def num_workers(self):
        """Processes of the cluster; 1 without one."""
        return self.extended.num_workers

    @property
    def worker(self):
        """The number of this process, from 0; worker 0 is the one that writes."""
        return self.extended.worker

    def sum_over_workers(self, number):
        """The sum of a Python number over all workers, each of which must call this."""
        return tensorflow_internals.host_sum(self, number)

    def experimental_distribute_dataset(self, dataset, options=None):
        """Gives each replica its rows of every batch; see the class."""
        replicas = self.num_replicas_in_sync
        local = len(self.extended.worker_devices)
        first = self.worker * local

        def shares(*batch):
            batch = batch[0] if len(batch) == 1 else batch
            datasets = [
                tf.data.Dataset.from_tensors(rows_of(batch, replica, replicas))
                for replica in range(first, first + local)
            ]
            for each in datasets[1:]:
                datasets[0] = datasets[0].concatenate(each)
            return datasets[0]

        return self.distribute_datasets_from_function(
            lambda _: dataset.flat_map(shares).prefetch(2 * local), options
        )

    def reduce(self, reduce_op, value, axis):
        """As `tf.distribute.Strategy.reduce`, for what Keras gives it: also scalars with `axis=0`,
        and batches, which are structures, of whose shares it asks for the shapes.
        """
        if tf.nest.is_nested(value):  # no collective: shares of other workers may have other shapes
            return tf.nest.map_structure(lambda x: self.experimental_local_results(x)[0], value)
        locals_ = self.experimental_local_results(value)
        if len({tuple(each.shape) for each in locals_}) > 1:
            return locals_[0]  # shares of a batch that R does not divide: Keras asks for the shape
        if locals_[0].shape.rank == 0:
            axis = None
        return super().reduce(reduce_op, value, axis)


def check_devices(devices):
    """Raises a ValueError that names a device that does not exist."""
    if not devices:
        raise ValueError("devices must not be empty; None means all of this machine")
    known = [device.name for device in tf.config.list_logical_devices()]
    short = [name.partition("device:")[2] for name in known]
    for device in devices:
        if device.removeprefix("/").removeprefix("device:") not in short:
            raise ValueError(f"devices: there is no {device!r}; known are {', '.join(short)}")


def form_groups(strategy):
    """Runs a strategy's first collective operations, with every worker.

    TensorFlow forms a group of devices in its first operation. If a step fails before that, the
    group stays cancelled, and soon all collectives of the process are: so no step comes first.

    Raises:
        RuntimeError: if collective operations number the replicas in another order than the
            strategy does, so that rows would reach the wrong experts (TensorFlow may order GPUs by
            how they are connected); and if the collectives of this process have failed for good.
    """

    @tf.function
    def gather():
        return strategy.run(lambda: collectives.all_gather(tf.constant(collectives.replica_id())))

    try:
        with tf.init_scope():
            found = np.ravel(strategy.experimental_local_results(gather())[0]).tolist()
            strategy.sum_over_workers(0)
    except tf.errors.OpError as error:
        if strategy.num_workers > 1:
            raise
        raise RuntimeError(
            "TensorFlow's collectives failed earlier in this process, and it cannot reset them: "
            "restart the process (of a notebook, the kernel)"
        ) from error
    if found != [*range(strategy.num_replicas_in_sync)]:
        raise RuntimeError(
            f"TensorFlow orders the devices as {found}, not as they are numbered; put them into "
            "this order with CUDA_VISIBLE_DEVICES"
        )


def rows_of(batch, replica, replicas):
    """One replica's rows of a batch.

    Args:
        batch: structure of tensors `[B, ...]`; scalars go to all replicas.
        replica: r.
        replicas: R.
    """
    sizes = [tf.shape(each)[0] for each in tf.nest.flatten(batch) if each.shape.rank != 0]
    if not sizes:
        return batch
    begin, end = sizes[0] * replica // replicas, sizes[0] * (replica + 1) // replicas
    return tf.nest.map_structure(
        lambda each: each if each.shape.rank == 0 else each[begin:end], batch
    )
