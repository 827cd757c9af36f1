"""`tfmoe describe`."""

import contextlib
import json as json_format

from tfmoe.cli import arguments
from tfmoe.cli.table import table
from tfmoe.cli.tensorflow_import import import_tensorflow
from tfmoe.config import find_config


def describe(config: arguments.Config, set_: arguments.Set = None, json: arguments.Json = False):
    """Count a model's multiply-adds and parameters, by layer.

    No weight is allocated: the largest models are counted in seconds. ops/timestep is the paper's
    count, without embedding and softmax. Where the config stands for a row of the paper's tables,
    its printed figures are shown beside ours.

    \b
    Examples:
      tfmoe describe lm1b/moe-256
      tfmoe describe demo/language_model --set "model.blocks[1].num_experts=64"
      tfmoe describe my.yaml --json

    \b
    With --json: {"ops_per_timestep", "ops_by_layer", "parameters": {"total",
    "excluding_embedding_and_softmax", "experts", "embedding", "softmax", "by_layer"},
    "vocabulary_size", "paper"}.
    """
    find_config(config)  # before the wait, in case it is not there
    tensorflow = import_tensorflow()
    with contextlib.suppress(RuntimeError):  # raised if the devices are in use already
        tensorflow.config.set_visible_devices([], "GPU")  # counting needs none
    from tfmoe.config import build_model, load_config
    from tfmoe.training.accounting import describe as describe_model

    loaded = load_config(config, set_ or ())
    model = build_model(loaded)
    counts = describe_model(model)
    if json:
        paper = loaded.paper.model_dump() if loaded.paper else None
        result = {**counts, "vocabulary_size": model.vocabulary_size, "paper": paper}
        print(json_format.dumps(result, indent=1))
    else:
        print(report(loaded, counts, changed=bool(set_)))


def report(config, counts, changed=False):
    """What `tfmoe describe` prints.

    Args:
        config: a `Config`.
        counts: what `tfmoe.training.accounting.describe` made of its model.
        changed: whether the config is no longer quite the table row that it names.
    """
    parameters, paper = counts["parameters"], config.paper
    heading = ["layer", "ops/timestep", "parameters", ""]
    rows = [["embedding", "", _grouped(parameters["embedding"]), ""]]
    blocks = zip(counts["ops_by_layer"].items(), config.model.blocks, strict=True)
    for (name, ops), block in blocks:
        count = parameters["by_layer"][name]
        rows.append([name, _grouped(ops), _grouped(count), _settings(block)])
    rows.append(["softmax", "", _grouped(parameters["softmax"]), ""])
    inner = parameters["excluding_embedding_and_softmax"]
    totals = [
        ["without embedding and softmax", _grouped(counts["ops_per_timestep"]), _grouped(inner), ""]
    ]
    if paper:
        ops = _printed(paper.ops_per_timestep_millions, "M")
        totals.append(["  the paper", ops, _printed(paper.parameters_millions, "M"), ""])
    totals.append(["total", "", _grouped(parameters["total"]), ""])
    if paper:
        totals.append(["  the paper", "", _printed(paper.total_billions, "B"), ""])
    totals.append(["of these in experts", "", _grouped(parameters["experts"]), ""])
    lines = table([heading, *rows, [""] * 4, *totals], "<>><")
    note = " (changed by --set)" if changed else ""
    return f"{paper.table}, {paper.row}{note}\n\n{lines}" if paper else lines


def _grouped(number):
    return f"{number:,}"


def _printed(number, unit):
    return "-" if number is None else f"{number} {unit}"


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
