"""What a model costs, as tables for a terminal."""

from typing import NamedTuple

from tfmoe.analysis.columns import aligned

# What ops/timestep counts where the softmax is not part of it, and where it is.
WITHOUT_SOFTMAX = "without embedding and softmax"
WITH_SOFTMAX = "encoder, decoder and softmax, gates aside"
# Whose slots are shown beside each other.
COMPARED = ("adam", "factored_adam")


class Printed(NamedTuple):
    """The figures that the paper printed, in the units that it uses; `None` for what it did not.

    Attributes:
        ops_per_timestep, parameters: in millions, parameters without embedding and softmax.
        total: parameters, in billions.
    """

    ops_per_timestep: float | None = None
    parameters: float | None = None
    total: float | None = None


NOTHING_PRINTED = Printed()


def cost_report(counts, settings, printed=NOTHING_PRINTED):
    """Operations and parameters, by layer.

    Args:
        counts: what `tfmoe.analysis.operations.describe` gives, or more.
        settings: for each block, in order, what the config says of it: strings.
        printed: the paper's figures.
    """
    parameters = counts["parameters"]
    heading = ["layer", "ops/timestep", "parameters", ""]
    rows = [["embedding", "", _grouped(parameters["embedding"]), ""]]
    for (name, ops), text in zip(counts["ops_by_layer"].items(), settings, strict=True):
        rows.append([name, _grouped(ops), _grouped(parameters["by_layer"][name]), text])
    softmax = counts["ops_of_softmax"]
    counted = _grouped(softmax) if softmax else ""
    rows.append(["softmax", counted, _grouped(parameters["softmax"]), ""])
    totals = [[*row, ""] for row in _totals(counts, printed)]
    return aligned([heading, *rows, [""] * 4, *totals], "<>><")


def _totals(counts, printed):
    """The last rows of `cost_report`: sums, and below them what the paper printed."""
    ops, parameters = _grouped(counts["ops_per_timestep"]), counts["parameters"]
    inner = _grouped(parameters["excluding_embedding_and_softmax"])
    paper_ops, paper_inner = (
        figure and f"{figure} M" for figure in (printed.ops_per_timestep, printed.parameters)
    )
    if counts["ops_of_softmax"]:
        rows = [[WITH_SOFTMAX, ops, ""]]
        if paper_ops:  # in whole millions
            rows.append(["  the paper", paper_ops.replace(".0 ", " "), ""])
        rows.append([WITHOUT_SOFTMAX, "", inner])
    else:
        rows = [[WITHOUT_SOFTMAX, ops, inner]]
        if paper_ops or paper_inner:
            rows.append(["  the paper", paper_ops or "-", paper_inner or "-"])
    rows.append(["total", "", _grouped(parameters["total"])])
    if printed.total:
        rows.append(["  the paper", "", f"{printed.total} B"])
    rows.append(["of these in experts", "", _grouped(parameters["experts"])])
    return rows


def memory_report(result, optimizer, sentence_length=None):
    """Memory of one device, in a column for each optimizer.

    Args:
        result: what `tfmoe describe --json` prints.
        optimizer: name of the config's own.
        sentence_length: steps of the longest sentences, where positions are those of a source and
            a target; else `None`.
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
    rows = [[name, *[in_units(bytes_)] * len(by_optimizer)] for name, bytes_ in same]
    rows.append(["optimizer slots", *map(in_units, by_optimizer.values())])
    expert_slots = [experts["optimizer_slots_by_optimizer"][name] for name in COMPARED]
    rows.append(["  of these the experts'", *map(in_units, expert_slots)])
    if experts["weights"]:
        shares = (f"{100 * slots / experts['weights']:.3g}%" for slots in expert_slots)
        rows.append(["    beside the experts' weights", *shares])
    for key, name in (("without", "all kept"), ("with", "experts' hidden ones recomputed")):
        activations = memory[f"activations_{key}_recompute"]
        if key == "with" and activations == memory["activations_without_recompute"]:
            continue
        totals = (in_units(fixed + slots + activations) for slots in by_optimizer.values())
        rows.append([f"activations, {name}", *[in_units(activations)] * len(by_optimizer)])
        rows.append(["  total", *totals])
    heading = [f"memory per device ({_devices(result)})", *by_optimizer]
    lines = aligned([heading, *rows], "<" + ">" * len(by_optimizer))
    text = f"{lines}\nthis config ({optimizer}, its own settings): {in_units(memory['total'])}"
    if sentence_length is not None:
        text += (
            "\npositions: half source, half target, in sentences of data.max_length "
            f"({sentence_length})."
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
            in_units(each["bytes_sent"]),
            f"{each['compute_to_communication']:,.0f}",
        ]
        for name, each in result["mixtures"].items()
    ]
    note = (
        "expert batch: k·b·R/n examples in a step. ops/number: an expert's multiply-adds per\n"
        "number that it takes in or gives out, the hidden size if it has one hidden layer."
    )
    return f"{aligned([heading, *rows], '<>>>>')}\n{note}"


def _devices(result):
    devices, tokens = result["devices"], _grouped(result["tokens_per_device"])
    return f"{devices} device{'s' if devices > 1 else ''}, {tokens} positions each"


def in_units(number):
    """Bytes in decimal units: `"4.29 GB"`."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= scale:
            return f"{number / scale:,.2f} {unit}"
    return f"{number} B"


def _grouped(number):
    return f"{number:,}"
