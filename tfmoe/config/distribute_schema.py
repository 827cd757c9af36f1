"""The section `distribute`."""

from typing import Literal

from tfmoe.config.named import Section, one_of
from tfmoe.config.number_types import AtLeastOne


class OneDevice(Section):
    """Everything on one device."""

    name: Literal["none"] = "none"


class Local(Section):
    """Mixed data and expert parallelism over the devices of this machine
    (`tfmoe.distribute.MixedStrategy`).

    Keys:
        devices: how many GPUs, from the first; null for all. On a machine without GPUs: into how
            many devices to divide the CPU, which is for trying things only.
    """

    name: Literal["local"] = "local"
    devices: AtLeastOne | None = None


class Cluster(Section):
    """The same over the workers that the environment variable TF_CONFIG names, or Slurm. All run
    the same command, and see the same run folder and data.

    Keys:
        resolver: where the cluster is described: tf_config, or slurm.
        start_timeout_seconds: how long to wait for all workers at the beginning.
        step_timeout_seconds: how long a step, of training or evaluation, or a save may take; then
            training ends with an error. A worker that dies is noticed within seconds in any case.
    """

    name: Literal["cluster"] = "cluster"
    resolver: Literal["tf_config", "slurm"] = "tf_config"
    start_timeout_seconds: AtLeastOne = 300
    step_timeout_seconds: AtLeastOne = 600


Distribute = one_of(OneDevice, Local, Cluster, default="none")
