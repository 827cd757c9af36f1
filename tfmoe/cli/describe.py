"""`tfmoe describe`."""

import contextlib
import json as json_format
from typing import Annotated

import typer

from tfmoe.analysis.columns import table
from tfmoe.cli import arguments
from tfmoe.config import find_config
from tfmoe.tasks.tensorflow_import import import_tensorflow

# What the paper counts in ops/timestep, by the kind of model.
COUNTED = {
    "language_model": "without embedding and softmax",
    "translation": "encoder, decoder and softmax, gates aside",
}
# Whose slots are shown beside each other.
COMPARED = ("adam", "factored_adam")

Devices = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="R",
        help="Devices that share the work, each with its part of data.batch_tokens "
        "(data.batch_words).",
    ),
]


def describe(
    config: arguments.Config,
    set_: arguments.Set = None,
    devices: Devices = 1,
    json: arguments.Json = False,
):
    """Count a model's multiply-adds, parameters, memory and traffic.

    No weight is allocated: the largest models are counted in seconds. ops/timestep is the paper's
    count: for a language model without embedding and softmax, for a translation model encoder,
    decoder and softmax, gates and the attention's own matrices aside. Where the config stands for a
    row of the paper's tables, its printed figures are shown beside ours.

    Memory is that of a training step on each of R devices: experts and their optimizer slots are
    sharded over them, the rest is replicated, and a batch is divided among them. Of a translation
    model's batch half is taken to be source, half target, in sentences of data.max_length.

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
    "multiply_adds_per_byte_sent"}}, "bytes_sent_per_device", "paper"}; memory and traffic in
    bytes.
    """
    find_config(config)  # before the wait, in case it is not there
    tensorflow = import_tensorflow()
    with contextlib.suppress(RuntimeError):  # raised if the devices are in use already
        tensorflow.config.set_visible_devices([], "GPU")  # counting needs none
    from tfmoe.analysis.memory import memory_per_device
    from tfmoe.analysis.operations import describe as describe_model
    from tfmoe.analysis.traffic import traffic
    from tfmoe.config import build_model, build_optimizer, load_config

    loaded = load_config(config, set_ or ())
    model = build_model(loaded)
    tokens, optimizer = -(-batch_positions(loaded.data) // devices), build_optimizer(loaded)
    memory = memory_per_device(model, tokens, devices, optimizer, loaded.data.max_length)
    mixtures = traffic(model, tokens, devices)
    result = {
        **describe_model(model),
        "vocabulary_size": model.vocabulary_size,
        "devices": devices,
        "tokens_per_device": tokens,
        "memory_per_device": memory,
        "mixtures": mixtures,
        "bytes_sent_per_device": sum(each["bytes_sent"] for each in mixtures.values()),
        "paper": loaded.paper.model_dump() if loaded.paper else None,
    }
    if json:
        print(json_format.dumps(result, indent=1))
        return
    parts = [report(loaded, result, changed=bool(set_)), memory_report(loaded, result)]
    if mixtures:
        parts.append(traffic_report(result))
    print("\n\n".join(parts))


def report(config, counts, changed=False):
    """Operations and parameters, by layer.

    Args:
        config: a `Config`.
        counts: what `tfmoe.analysis.operations.describe` made of its model, or more.
        changed: whether the config is no longer quite the table row that it names.
    """
    parameters, paper = counts["parameters"], config.paper
    heading = ["layer", "ops/timestep", "parameters", ""]
    rows = [["embedding", "", _grouped(parameters["embedding"]), ""]]
    blocks = zip(counts["ops_by_layer"].items(), blocks_of(config.model), strict=True)
    for (name, ops), block in blocks:
        count = parameters["by_layer"][name]
        rows.append([name, _grouped(ops), _grouped(count), _settings(block)])
    softmax = counts["ops_of_softmax"]
    counted = _grouped(softmax) if softmax else ""
    rows.append(["softmax", counted, _grouped(parameters["softmax"]), ""])
    lines = table([heading, *rows, [""] * 4, *_totals(config, counts)], "<>><")
    note = " (changed by --set)" if changed else ""
    return f"{paper.table}, {paper.row}{note}\n\n{lines}" if paper else lines


def _totals(config, counts):
    """The last rows of `report`: sums, and below them what the paper printed of them."""
    ops, parameters = counts["ops_per_timestep"], counts["parameters"]
    inner = parameters["excluding_embedding_and_softmax"]
    printed_ops, printed_inner, printed_total = _figures(config.paper)
    label = COUNTED[config.model.name]
    if config.model.name == "language_model":
        rows = [[label, _grouped(ops), _grouped(inner)]]
        if printed_ops or printed_inner:
            rows.append(["  the paper", printed_ops or "-", printed_inner or "-"])
    else:
        rows = [[label, _grouped(ops), ""]]
        if printed_ops:  # in whole millions
            rows.append(["  the paper", printed_ops.replace(".0 ", " "), ""])
        rows.append([COUNTED["language_model"], "", _grouped(inner)])
    rows.append(["total", "", _grouped(parameters["total"])])
    if printed_total:
        rows.append(["  the paper", "", printed_total])
    rows.append(["of these in experts", "", _grouped(parameters["experts"])])
    return [[*row, ""] for row in rows]


def batch_positions(data):
    """Positions of a batch by a config's `data`."""
    return data.batch_words if hasattr(data, "batch_words") else data.batch_tokens


def blocks_of(model):
    """All blocks of a config's `model`, in order."""
    return model.blocks if hasattr(model, "blocks") else [*model.encoder, *model.decoder]


def memory_report(config, result):
    """Memory of one device, in a column for each optimizer.

    Args:
        config: a `Config`.
        result: what `tfmoe describe --json` prints.
    """
    memory = result["memory_per_device"]
    experts = memory["experts"]
    by_optimizer = {name: memory["optimizer_slots_by_optimizer"][name] for name in COMPARED}
    fixed = memory["weights"] + memory["gradients"]
    same = [
        ("weights", memory["weights"]),
        ("  of these the experts'", experts["weights"]),
        ("gradients", memory["gradients"]),
    ]
    rows = [[name, *[_size(bytes_)] * len(by_optimizer)] for name, bytes_ in same]
    rows.append(["optimizer slots", *map(_size, by_optimizer.values())])
    expert_slots = [experts["optimizer_slots_by_optimizer"][name] for name in COMPARED]
    rows.append(["  of these the experts'", *map(_size, expert_slots)])
    if experts["weights"]:
        shares = (f"{100 * slots / experts['weights']:.3g}%" for slots in expert_slots)
        rows.append(["    beside the experts' weights", *shares])
    for key, name in (("without", "all kept"), ("with", "experts' hidden ones recomputed")):
        activations = memory[f"activations_{key}_recompute"]
        if key == "with" and activations == memory["activations_without_recompute"]:
            continue
        totals = (_size(fixed + slots + activations) for slots in by_optimizer.values())
        rows.append([f"activations, {name}", *[_size(activations)] * len(by_optimizer)])
        rows.append(["  total", *totals])
    heading = [f"memory per device ({_devices(result)})", *by_optimizer]
    lines = table([heading, *rows], "<" + ">" * len(by_optimizer))
    own = f"{config.training.optimizer.name}, its own settings"
    text = f"{lines}\nthis config ({own}): {_size(memory['total'])}"
    if config.model.name == "translation":
        text += (
            "\npositions: half source, half target, in sentences of data.max_length "
            f"({config.data.max_length})."
        )
    return text


def traffic_report(result):
    """Expert batches and what is sent all-to-all, a row for each mixture.

    Args:
        result: what `tfmoe describe --json` prints.
    """
    heading = ["mixture", "experts/device", "expert batch", "sent/device and step", "ops/number"]
    rows = [
        [
            name,
            _grouped(each["experts_per_device"]),
            f"{each['expert_batch']:,.1f}",
            _size(each["bytes_sent"]),
            f"{each['compute_to_communication']:,.0f}",
        ]
        for name, each in result["mixtures"].items()
    ]
    note = (
        "expert batch: k·b·R/n examples in a step. ops/number: an expert's multiply-adds per\n"
        "number that it takes in or gives out, the hidden size if it has one hidden layer."
    )
    return f"{table([heading, *rows], '<>>>>')}\n{note}"


def _devices(result):
    devices, tokens = result["devices"], _grouped(result["tokens_per_device"])
    return f"{devices} device{'s' if devices > 1 else ''}, {tokens} positions each"


def _size(number):
    """Bytes in decimal units: `"4.29 GB"`."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= scale:
            return f"{number / scale:,.2f} {unit}"
    return f"{number} B"


def _grouped(number):
    return f"{number:,}"


def _figures(paper):
    """What the paper printed of operations, parameters within and parameters in total, with their
    units; `None` for what it did not.
    """
    if paper is None:
        return None, None, None
    figures = (
        (paper.ops_per_timestep_millions, "M"),
        (paper.parameters_millions, "M"),
        (paper.total_billions, "B"),
    )
    return [None if number is None else f"{number} {unit}" for number, unit in figures]


def _settings(section):
    """What a config says of a block: `"num_experts 256, gate noisy_top_k (k 4)"`."""
    parts = []
    for key in type(section).model_fields:
        if key == "name" or key not in section.model_fields_set:
            continue
        value = getattr(section, key)
        if hasattr(value, "name"):
            inner = _settings(value)
            value = f"{value.name} ({inner})" if inner else value.name
        parts.append(f"{key} {value}")
    return ", ".join(parts)
