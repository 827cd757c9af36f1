"""Checks that a model fits into the memory of this machine, before any of it is allocated.

Axes: R devices that share the work, T positions of a batch on one device.
"""

import os
from typing import NamedTuple

import tensorflow as tf

from tfmoe.analysis.machine import available_memory
from tfmoe.analysis.memory import activation_bytes
from tfmoe.analysis.operations import named_blocks
from tfmoe.analysis.report import in_units
from tfmoe.analysis.variables import GraphBuild
from tfmoe.config.builders import build_model, build_optimizer
from tfmoe.config.model_schema import block_lists
from tfmoe.config.problems import ConfigError, Problem, key_of
from tfmoe.distribute.workers import is_mixed, num_workers

# The environment variable that disables the check if it is 1.
IGNORE = "TFMOE_IGNORE_MEMORY"
MIN_VOCABULARY = 5
# More slots per weight than any optimizer has: if these fit, the real ones need not be counted.
MAX_SLOTS = 10


class MemoryNeeds(NamedTuple):
    """Bytes on one device.

    Attributes:
        weights: by the config key that determines their size, `{"model.blocks[1]": 4096, …}`.
        gradients: of the blocks' weights. The gradients of embedding and softmax are sparse.
        slots: of the optimizer.
        activations: kept for the backward pass.
    """

    weights: dict
    gradients: int = 0
    slots: int = 0
    activations: int = 0

    @property
    def total(self):
        return sum(self.weights.values()) + self.gradients + self.slots + self.activations


def check_blocks(config, strategy):
    """Checks that training a config's blocks fits into memory, before the text is read.

    Args:
        config: a `Config`.
        strategy: the strategy of the training.

    Returns:
        The `GraphBuild` of its model, with `data.vocabulary.size` words if that is given.

    Raises:
        ConfigError: if it does not fit.
    """
    size = config.data.vocabulary.size or MIN_VOCABULARY
    built = GraphBuild(build_model(config, size))
    devices = strategy.num_replicas_in_sync
    weights = weights_by_key(config, built, devices)
    weights.pop("data.vocabulary.size")
    needs = MemoryNeeds(weights, sum(weights.values()))
    check_fits(needs, devices_here(strategy), "training")
    return built


def check_training(config, built, strategy, positions):
    """Checks that a training fits into memory.

    Args:
        config: a `Config`.
        built: the `GraphBuild` of its model.
        strategy: the strategy of the training.
        positions: number of positions of the training text, without padding.

    Raises:
        ConfigError: if it does not fit.
    """
    devices, here = strategy.num_replicas_in_sync, devices_here(strategy)
    weights = weights_by_key(config, built, devices)
    tokens = min(-(-config.data.batch_tokens // devices), positions)
    gradients = sum(weights.values()) - weights["data.vocabulary.size"]
    needs = MemoryNeeds(weights, gradients, 0, activation_bytes(built.layer, tokens))
    available = available_memory()
    if available is None or here * (needs.total + MAX_SLOTS * sum(weights.values())) < available:
        return
    slots = built.slots(build_optimizer(config))
    slots = sum(slot.on_each_device(devices).bytes for slot in slots)
    check_fits(needs._replace(slots=slots), here, "training")


def check_weights(config, vocabulary_size, checkpoints):
    """Checks that the weights of a trained model fit into memory.

    Args:
        config: a `Config`.
        vocabulary_size: number of words or subwords with an id.
        checkpoints: the folder of the weights.

    Raises:
        ConfigError: if they do not fit.
    """
    stored = sum(file.stat().st_size for file in checkpoints.glob("*"))
    available = available_memory()
    if available is None or stored < available:
        return
    built = GraphBuild(build_model(config, vocabulary_size))
    check_fits(MemoryNeeds(weights_by_key(config, built, 1)), 1, "this model")


def check_new_model(config, vocabulary_size):
    """Checks that the weights and the optimizer slots of a new model fit into memory, on one
    device.

    Args:
        config: a `Config`.
        vocabulary_size: number of words or subwords with an id.

    Raises:
        ConfigError: if they do not fit.
    """
    built = GraphBuild(build_model(config, vocabulary_size))
    slots = sum(slot.bytes for slot in built.slots(build_optimizer(config)))
    check_fits(MemoryNeeds(weights_by_key(config, built, 1), slots=slots), 1, "the new model")


def weights_by_key(config, built, devices):
    """Bytes of weights on the fullest device, by config key: one key per block, and
    `data.vocabulary.size` for embedding and softmax.
    """

    def bytes_of(layer):
        return sum(weight.on_each_device(devices).bytes for weight in built.variables(layer))

    model = built.layer
    keys = [
        key_of(("model", key, index))
        for key in block_lists(type(config.model))
        for index in range(len(getattr(config.model, key)))
    ]
    blocks = zip(keys, named_blocks(model).values(), strict=True)
    vocabulary = bytes_of(model.embedding) + bytes_of(model.softmax)
    return {**{key: bytes_of(block) for key, block in blocks}, "data.vocabulary.size": vocabulary}


def devices_here(strategy):
    """The number of the R devices that share this machine's memory; 0 if they have their own."""
    if not is_mixed(strategy):
        return 0 if tf.config.list_physical_devices("GPU") else 1
    devices = strategy.extended.worker_devices
    if any("GPU" in device.upper() for device in devices):
        return 0
    if num_workers(strategy) == 1:
        return len(devices)
    workers = strategy.cluster_resolver.cluster_spec().job_tasks("worker")
    hosts = [address.rpartition(":")[0] for address in workers]
    return len(devices) * hosts.count(hosts[strategy.worker])


def check_fits(needs, devices, subject):
    """Raises a ConfigError if this machine has less memory than its devices need.

    Args:
        needs: the `MemoryNeeds` of one device.
        devices: number of devices.
        subject: the subject of the error message: "training".
    """
    available, total = available_memory(), devices * needs.total
    if available is None or total <= available or os.environ.get(IGNORE) == "1":
        return
    parts = {
        "weights": sum(needs.weights.values()),
        "gradients": needs.gradients,
        "optimizer slots": needs.slots,
        "activations": needs.activations,
    }
    figures = ", ".join(f"{name} {in_units(devices * n)}" for name, n in parts.items() if n)
    on_devices = f" for {devices} devices" if devices > 1 else ""
    key, largest = max(needs.weights.items(), key=lambda item: item[1])
    cause = f"this key determines the largest part, {in_units(devices * largest)} of the weights"
    if needs.activations > needs.total / 2:
        key, cause = "data.batch_tokens", "this key determines the largest part"
    message = (
        f"{subject} needs {in_units(total)} of memory{on_devices} ({figures}), but this machine "
        f"has {in_units(available)} available; {cause}. Use a smaller model or more machines, or "
        f"set {IGNORE}=1 in the environment to try anyway"
    )
    raise ConfigError([Problem("", key, message)])
