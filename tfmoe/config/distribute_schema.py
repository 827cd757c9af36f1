"""The section `distribute`, and the strategies that it names."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import tensorflow as tf
from pydantic import Field

from tfmoe import distribute
from tfmoe.config.named import one_of
from tfmoe.config.number_types import PositiveInt
from tfmoe.config.sections import section_of


def one_device():
    """Trains on one device, with TensorFlow's default strategy."""
    return tf.distribute.get_strategy()


def local(devices: int | None = None):
    """Trains on the devices of this machine, with data and expert parallelism
    (`tfmoe.distribute.MixedStrategy`).

    Args:
        devices: number of GPUs to use, the first ones; null for all. On a machine without GPUs:
            number of virtual devices to split the CPU into, for testing only.

    Raises:
        ValueError: if the machine has fewer devices.
    """
    return distribute.MixedStrategy(distribute.local_devices(devices))


def cluster(
    resolver: Literal["tf_config", "slurm"] = "tf_config", start_timeout_seconds: int = 300
):
    """Trains on several workers, with data and expert parallelism over their devices. All workers
    run the same command, and share the run folder and the data.

    Args:
        resolver: what lists the workers: tf_config for the environment variable TF_CONFIG, or
            slurm.
        start_timeout_seconds: how long to wait for all workers at the start.

    Raises:
        ValueError: if no cluster is described.
    """
    return distribute.MixedStrategy(
        cluster_resolver=distribute.cluster_resolver(resolver),
        start_timeout_seconds=start_timeout_seconds,
    )


STRATEGIES = {"none": one_device, "local": local, "cluster": cluster}
MAX_DEVICES = 1024  # also of virtual CPU devices
FIELDS = {
    "devices": Annotated[int, Field(ge=1, le=MAX_DEVICES)] | None,
    "start_timeout_seconds": PositiveInt,
}
MORE_KEYS = {
    "cluster": {
        "step_timeout_seconds": (
            PositiveInt,
            600,
            "maximum duration of a training step, an evaluation step or a save; a longer one ends "
            "training with an error. A worker that dies is noticed within seconds in any case.",
        )
    }
}
STRATEGY_SECTIONS = {
    name: section_of(strategy, name, fields=FIELDS, more=MORE_KEYS.get(name))
    for name, strategy in STRATEGIES.items()
}
if TYPE_CHECKING:  # the union is only known at run time
    Distribute = Any
else:
    Distribute = one_of(*STRATEGY_SECTIONS.values(), default="none")
