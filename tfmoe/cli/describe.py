"""`tfmoe describe`: counts what a model costs."""

from typing import Annotated

import typer

from tfmoe import tasks
from tfmoe.cli import arguments
from tfmoe.cli.output import print_json
from tfmoe.config.shipped import find_config

Devices = Annotated[
    int,
    typer.Option(
        min=1,
        max=1_000_000,
        metavar="R",
        help="Number of devices that share the experts and each batch of data.batch_tokens.",
    ),
]


def describe(
    config: arguments.Config,
    set_: arguments.Set = None,
    devices: Devices = 1,
    json: arguments.Json = False,
):
    """Count a model's multiply-adds, parameters, memory and traffic.

    No weights are allocated: the largest models are counted in seconds. ops/timestep is counted as
    in the paper: for a language model without embedding and softmax; for a translation model with
    encoder, decoder and softmax, without gates and the matrices of the attention. If the config
    reproduces a row of the paper's tables, the printed figures are shown next to ours.

    Memory is that of a training step on each of R devices. Experts and their optimizer slots are
    sharded over the devices, everything else is replicated, and a batch is split. For a translation
    model, half of the batch is assumed to be source and half target, in sentences of
    data.max_length.

    \b
    Examples:
      tfmoe describe lm1b/moe-256
      tfmoe describe demo/language_model --set "model.blocks[1].num_experts=64"
      tfmoe describe lm1b/moe-4096-h --devices 16
      tfmoe describe wmt14/en-fr-moe-2048 --devices 64
      tfmoe describe my.yaml --json

    \b
    With --json: {"ops_per_timestep", "ops_by_layer", "ops_of_softmax", "parameters": {"total",
    "excluding_embedding_and_softmax", "experts", "embedding", "softmax", "by_layer"},
    "vocabulary_size", "devices", "tokens_per_device", "memory_per_device": {"weights",
    "gradients", "optimizer_slots", "optimizer_slots_by_optimizer", "experts", "activations",
    "activations_without_recompute", "activations_with_recompute", "total"}, "mixtures":
    {LAYER: {"experts_per_device", "expert_batch", "bytes_sent", "compute_to_communication",
    "multiply_adds_per_byte_sent"}}, "bytes_sent_per_device" (of all mixtures),
    "gradient_traffic": {"dense", "tables", "tables_at_most", "bytes_sent"},
    "bytes_sent_in_all", "paper"}. Memory and traffic are in bytes.
    """
    find_config(config)  # fails before TensorFlow is loaded
    loaded, result = tasks.describe_config(config, set_ or (), devices)
    if json:
        print_json(result, indent=1)
    else:
        print(tasks.description(loaded, result, changed=bool(set_)))
