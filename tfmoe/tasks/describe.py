"""Counts what the model of a config costs."""

import contextlib
from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from tfmoe.analysis.gradient_traffic import gradient_traffic
from tfmoe.analysis.memory import memory_per_device
from tfmoe.analysis.operations import describe
from tfmoe.analysis.report import (
    Printed,
    cost_report,
    gradient_report,
    memory_report,
    traffic_report,
)
from tfmoe.analysis.traffic import traffic
from tfmoe.analysis.variables import GraphBuild
from tfmoe.config.builders import build_model, build_optimizer
from tfmoe.config.data_schema import corpus_of
from tfmoe.config.loader import load_config
from tfmoe.config.schema import Config


def describe_config(
    name: str, overrides: Iterable[str] = (), devices: int = 1
) -> tuple[Config, dict[str, Any]]:
    """Counts operations, parameters, memory and traffic of a config's model.

    Args:
        name: a YAML file, or the name of a shipped config.
        overrides: values of `--set`.
        devices: number of devices R that share the work.

    Returns:
        The `Config`, and the object that `tfmoe describe --json` prints.

    Raises:
        ConfigError: for an invalid config.
    """
    with contextlib.suppress(RuntimeError):  # raised if TensorFlow has initialized the devices
        tf.config.set_visible_devices([], "GPU")  # counting needs no GPU
    config = load_config(name, overrides)
    model = build_model(config)
    built = GraphBuild(model)
    tokens, optimizer = -(-config.data.batch_tokens // devices), build_optimizer(config)
    memory = memory_per_device(model, tokens, devices, optimizer, config.data.max_length, built)
    mixtures = traffic(model, tokens, devices)
    sent_for_rows = sum(mixture["bytes_sent"] for mixture in mixtures.values())
    gradients = gradient_traffic(model, tokens, devices, built)
    return config, {
        **describe(model, built),
        "vocabulary_size": model.vocabulary_size,
        "devices": devices,
        "tokens_per_device": tokens,
        "memory_per_device": memory,
        "mixtures": mixtures,
        "bytes_sent_per_device": sent_for_rows,
        "gradient_traffic": gradients,
        "bytes_sent_in_all": sent_for_rows + gradients["bytes_sent"],
        "paper": config.paper.model_dump() if config.paper else None,
    }


def description(config: Config, result: dict[str, Any], changed: bool = False) -> str:
    """The text that `tfmoe describe` prints.

    Args:
        config: the `Config` of `describe_config`.
        result: the dictionary of `describe_config`.
        changed: whether `--set` changed the config of a table row.
    """
    optimizer = config.training.optimizer.name
    parts = [
        cost_table(config, result, changed),
        memory_report(result, optimizer, sentence_length(config)),
    ]
    if result["mixtures"]:
        parts.append(traffic_report(result))
    if result["devices"] > 1:
        parts.append(gradient_report(result))
    return "\n\n".join(parts)


def cost_table(config, counts, changed=False):
    """A table of the operations and parameters of a config's model by layer, with the figures of
    the paper's table row if the config has one.

    Args:
        config: a `Config`.
        counts: the result of `tfmoe.analysis.operations.describe` for its model.
        changed: as for `description`.
    """
    settings = list(map(settings_of, blocks_of(config.model)))
    paper = config.paper
    if paper is None:
        return cost_report(counts, settings)
    printed = Printed(
        paper.ops_per_timestep_millions, paper.parameters_millions, paper.total_billions
    )
    note = " (changed by --set)" if changed else ""
    return f"{paper.table}, {paper.row}{note}\n\n{cost_report(counts, settings, printed)}"


def sentence_length(config):
    """The maximum length of the sentences of parallel text; `None` for monolingual text."""
    is_parallel = corpus_of(config.data).kind == "parallel"
    return config.data.max_length if is_parallel else None


def blocks_of(model):
    """All blocks of a config's `model`, in order."""
    return model.blocks if hasattr(model, "blocks") else [*model.encoder, *model.decoder]


def settings_of(section):
    """The settings of a block as text: `"num_experts 256, gate noisy_top_k (k 4)"`."""
    parts = []
    for key in type(section).model_fields:
        if key == "name" or key not in section.model_fields_set:
            continue
        value = getattr(section, key)
        if hasattr(value, "name"):
            inner = settings_of(value)
            value = f"{value.name} ({inner})" if inner else value.name
        parts.append(f"{key} {value}")
    return ", ".join(parts)
