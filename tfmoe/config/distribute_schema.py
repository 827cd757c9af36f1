"""The section `distribute`, and the strategies that it stands for."""

from typing import Annotated, Literal

import tensorflow as tf
from pydantic import Field

from tfmoe import distribute
from tfmoe.config.named import one_of
from tfmoe.config.number_types import AtLeastOne
from tfmoe.config.sections import section_of


def one_device():
    """Everything on one device: TensorFlow's default strategy, which changes nothing."""
    return tf.distribute.get_strategy()


def local(devices: int | None = None):
    """Mixed data and expert parallelism over the devices of this machine
    (`tfmoe.distribute.MixedStrategy`).

    Args:
        devices: how many GPUs, from the first; null for all. On a machine without GPUs: into how
            many devices to divide the CPU, which is for trying things only.

    Raises:
        ValueError: if there are fewer devices.
    """
    return distribute.MixedStrategy(distribute.local_devices(devices))


def cluster(
    resolver: Literal["tf_config", "slurm"] = "tf_config", start_timeout_seconds: int = 300
):
    """The same over the workers that the environment variable TF_CONFIG lists, or Slurm. All run
    the same command, and see the same run folder and data.

    Args:
        resolver: where the cluster is described: tf_config, or slurm.
        start_timeout_seconds: how long to wait for all workers at the beginning.

    Beside them a config has step_timeout_seconds: how long a step, of training or evaluation, or a
    save may take; then training ends with an error. A worker that dies is noticed within seconds in
    any case.

    Raises:
        ValueError: if no cluster is described.
    """
    return distribute.MixedStrategy(
        cluster_resolver=distribute.cluster_resolver(resolver),
        start_timeout_seconds=start_timeout_seconds,
    )


STRATEGIES = {"none": one_device, "local": local, "cluster": cluster}
MOST_DEVICES = 1024  # parts of a CPU, too
FIELDS = {
    "devices": Annotated[int, Field(ge=1, le=MOST_DEVICES)] | None,
    "start_timeout_seconds": AtLeastOne,
}
MORE_KEYS = {"cluster": {"step_timeout_seconds": (AtLeastOne, 600)}}
STRATEGY_SECTIONS = {
    name: section_of(strategy, name, fields=FIELDS, more=MORE_KEYS.get(name))
    for name, strategy in STRATEGIES.items()
}
Distribute = one_of(*STRATEGY_SECTIONS.values(), default="none")
