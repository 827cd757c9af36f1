"""Mixed data and expert parallelism on `tf.distribute`."""

from tfmoe.distribute.devices import cluster_resolver, local_devices, logical_cpus
from tfmoe.distribute.failures import stopping_when_a_worker_is_gone
from tfmoe.distribute.one_device import on_one_device
from tfmoe.distribute.strategy import MixedStrategy
from tfmoe.distribute.tensorflow_internals import abort_collectives
from tfmoe.distribute.workers import (
    distribute_rows,
    is_first_worker,
    is_mixed,
    sum_over_workers,
    wait_for_workers,
)

__all__ = [
    "MixedStrategy",
    "abort_collectives",
    "cluster_resolver",
    "distribute_rows",
    "is_first_worker",
    "is_mixed",
    "local_devices",
    "logical_cpus",
    "on_one_device",
    "stopping_when_a_worker_is_gone",
    "sum_over_workers",
    "wait_for_workers",
]
