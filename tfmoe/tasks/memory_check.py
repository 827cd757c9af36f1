"""Whether a model fits into the memory of this machine, before any of it is allocated.

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

# Set to 1, it lets a model begin that needs more memory than there is.
IGNORE = "TFMOE_IGNORE_MEMORY"
SMALLEST_VOCABULARY = 5
# No optimizer has as many slots: with less memory than this, nobody needs to count them.
MOST_SLOTS = 10


class Needs(NamedTuple):
    """Bytes on one device.

    Attributes:
        weights: by the key that they follow from, `{"model.blocks[1]": 4096, …}`.
        gradients: of the blocks' weights. Those of embedding and softmax arrive as some of their
            rows.
        slots: of the optimizer.
        activations: that the backward pass needs.
    """

    weights: dict
    gradients: int = 0
    slots: int = 0
    activations: int = 0

    @property
    def total(self):
        return sum(self.weights.values()) + self.gradients + self.slots + self.activations


def check_blocks(config, strategy):
    """Checks that a training of a config's blocks fits, whatever its text and vocabulary.

    Args:
        config: a `Config`.
        strategy: of the training.

    Returns:
        The `GraphBuild` of its model, with `data.vocabulary.size` words if that is given.

    Raises:
        ConfigError: if it does not fit.
    """
    size = config.data.vocabulary.size or SMALLEST_VOCABULARY
    built = GraphBuild(build_model(config, size))
    devices = strategy.num_replicas_in_sync
    weights = weights_by_key(config, built, devices)
    weights.pop("data.vocabulary.size")
    refuse_too_large(Needs(weights, sum(weights.values())), devices_here(strategy), "training")
    return built


def check_training(config, built, strategy, positions):
    """Checks that a training fits.

    Args:
        config: a `Config`.
        built: the `GraphBuild` of its model.
        strategy: of the training.
        positions: of the training text, padding aside.

    Raises:
        ConfigError: if it does not fit.
    """
    devices, here = strategy.num_replicas_in_sync, devices_here(strategy)
    weights = weights_by_key(config, built, devices)
    tokens = min(-(-config.data.batch_tokens // devices), positions)
    gradients = sum(weights.values()) - weights["data.vocabulary.size"]
    needs = Needs(weights, gradients, 0, activation_bytes(built.layer, tokens))
    available = available_memory()
    if available is None or here * (needs.total + MOST_SLOTS * sum(weights.values())) < available:
        return
    slots = built.slots(build_optimizer(config))
    slots = sum(each.on_each_device(devices).bytes for each in slots)
    refuse_too_large(needs._replace(slots=slots), here, "training")


def check_weights(config, vocabulary_size, checkpoints):
    """Checks that the weights of a trained model fit.

    Args:
        config: a `Config`.
        vocabulary_size: words or subwords with an id.
        checkpoints: the folder that has them.

    Raises:
        ConfigError: if they do not.
    """
    stored = sum(file.stat().st_size for file in checkpoints.glob("*"))
    available = available_memory()
    if available is None or stored < available:
        return
    built = GraphBuild(build_model(config, vocabulary_size))
    refuse_too_large(Needs(weights_by_key(config, built, 1)), 1, "this model")


def weights_by_key(config, built, devices):
    """Bytes of weights on the fullest of several devices: by block, and `data.vocabulary.size` for
    embedding and softmax.
    """

    def bytes_of(layer):
        return sum(each.on_each_device(devices).bytes for each in built.variables(layer))

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
    """How many of the R devices share the memory of this machine; 0 if they have their own."""
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


def refuse_too_large(needs, devices, what):
    """Raises a ConfigError if several devices of this machine need more memory than there is.

    Args:
        needs: `Needs` of one of them.
        devices: how many.
        what: needs it: "training".
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
    here = f" of {devices} devices" if devices > 1 else ""
    key, most = max(needs.weights.items(), key=lambda item: item[1])
    share = f"the largest part, {in_units(devices * most)} of the weights, follows from this key"
    if needs.activations > needs.total / 2:
        key, share = "data.batch_tokens", "the largest part follows from this key"
    message = (
        f"{what} needs {in_units(total)} of memory{here} ({figures}), but this machine has "
        f"{in_units(available)} available; {share}. Choose a smaller model or more machines, or "
        f"set {IGNORE}=1 in the environment to try it all the same"
    )
    raise ConfigError([Problem("", key, message)])
