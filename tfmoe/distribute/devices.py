"""The devices of this machine, and the clusters that it can be part of."""

import json
import os

import tensorflow as tf

from tfmoe.distribute import tensorflow_internals


def local_devices(number=None):
    """The first GPUs of this machine; without any, parts of its CPU.

    Args:
        number: of devices; `None` for all GPUs, or the whole CPU.

    Returns:
        Their names, such as `["GPU:0", "GPU:1"]`.

    Raises:
        ValueError: if there are fewer GPUs.
        RuntimeError: as `logical_cpus`.
    """
    gpus = len(tf.config.list_physical_devices("GPU"))
    if not gpus:
        return logical_cpus(number or 1)
    if (number or 0) > gpus:
        raise ValueError(f"distribute.devices is {number}, but this machine has {gpus} GPUs")
    return [f"GPU:{i}" for i in range(number or gpus)]


def logical_cpus(number):
    """Divides the CPU into devices, to try a strategy on a machine without GPUs.

    Args:
        number: of devices.

    Returns:
        Their names, `["CPU:0", …]`.

    Raises:
        RuntimeError: if TensorFlow has made its devices already: this must come first.
    """
    if not tensorflow_internals.initialised():
        (cpu,) = tf.config.list_physical_devices("CPU")
        parts = [tf.config.LogicalDeviceConfiguration()] * number
        tf.config.set_logical_device_configuration(cpu, parts)
    elif len(tf.config.list_logical_devices("CPU")) < number:
        raise RuntimeError(
            f"TensorFlow has made its devices already: divide the CPU into {number} before any "
            "other use of TensorFlow"
        )
    return [f"CPU:{i}" for i in range(number)]


def cluster_resolver(name):
    """The description of a cluster.

    Args:
        name: `"tf_config"` (the environment variable TF_CONFIG) or `"slurm"`.

    Returns:
        A `tf.distribute.cluster_resolver.ClusterResolver`.

    Raises:
        ValueError: if the environment does not describe a cluster, or not one of workers only.
    """
    if name == "slurm":
        try:
            return tf.distribute.cluster_resolver.SlurmClusterResolver()
        except (RuntimeError, KeyError) as error:
            raise ValueError(f"no Slurm step around this process: {error}") from error
    text = os.environ.get("TF_CONFIG", "")
    try:
        found = json.loads(text or "{}")
        workers, task = found["cluster"]["worker"], found["task"]
        if not 0 <= task["index"] < len(workers) or task["type"] != "worker":
            raise IndexError
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(
            "TF_CONFIG must describe a cluster of workers and this one's place in it, such as "
            '{"cluster": {"worker": ["host-a:2222", "host-b:2222"]}, "task": {"type": "worker", '
            f'"index": 0}}}}; it is {text or "not set"}'
        ) from error
    return tf.distribute.cluster_resolver.TFConfigClusterResolver()
