"""The devices of this machine, and the cluster that it belongs to."""

import json
import os

import tensorflow as tf

from tfmoe.distribute import tensorflow_internals


def local_devices(number: int | None = None) -> list[str]:
    """Lists the first GPUs of this machine; without a GPU, divides the CPU into devices.

    Args:
        number: the device count; `None` for all GPUs, or one CPU device.

    Returns:
        The device names, such as `["GPU:0", "GPU:1"]`.

    Raises:
        ValueError: the machine has fewer GPUs.
        RuntimeError: as for `logical_cpus`.
    """
    num_gpus = len(tf.config.list_physical_devices("GPU"))
    if not num_gpus:
        return logical_cpus(number or 1)
    if (number or 0) > num_gpus:
        raise ValueError(f"distribute.devices is {number}, but this machine has {num_gpus} GPUs")
    return [f"GPU:{i}" for i in range(number or num_gpus)]


def logical_cpus(number: int) -> list[str]:
    """Divides the CPU into devices, to try a strategy on a machine without GPUs.

    Args:
        number: the device count.

    Returns:
        The device names, `["CPU:0", …]`.

    Raises:
        RuntimeError: TensorFlow has already created fewer devices. Call this function first.
    """
    if not tensorflow_internals.devices_are_initialized():
        (cpu,) = tf.config.list_physical_devices("CPU")
        parts = [tf.config.LogicalDeviceConfiguration()] * number
        tf.config.set_logical_device_configuration(cpu, parts)
    elif len(tf.config.list_logical_devices("CPU")) < number:
        raise RuntimeError(
            f"TensorFlow has already created its devices: divide the CPU into {number} devices "
            "before any other use of TensorFlow"
        )
    return [f"CPU:{i}" for i in range(number)]


def cluster_resolver(name: str) -> tf.distribute.cluster_resolver.ClusterResolver:
    """Reads the description of the cluster from the environment.

    Args:
        name: `"tf_config"` (the environment variable `TF_CONFIG`) or `"slurm"`.

    Returns:
        A `tf.distribute.cluster_resolver.ClusterResolver`.

    Raises:
        ValueError: the environment does not describe a cluster of workers.
    """
    if name == "slurm":
        try:
            return tf.distribute.cluster_resolver.SlurmClusterResolver()
        except (RuntimeError, KeyError) as error:
            raise ValueError(f"this process does not run in a Slurm step: {error}") from error
    text = os.environ.get("TF_CONFIG", "")
    try:
        config = json.loads(text or "{}")
        workers, task = config["cluster"]["worker"], config["task"]
        if not 0 <= task["index"] < len(workers) or task["type"] != "worker":
            raise IndexError
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(
            "TF_CONFIG must list the workers of the cluster and the index of this one, such as "
            '{"cluster": {"worker": ["host-a:2222", "host-b:2222"]}, "task": {"type": "worker", '
            f'"index": 0}}}}; it is {text or "not set"}'
        ) from error
    return tf.distribute.cluster_resolver.TFConfigClusterResolver()
