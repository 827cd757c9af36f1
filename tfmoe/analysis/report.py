"""The costs of a model, as tables for a terminal."""

from typing import NamedTuple

from tfmoe.analysis.columns import aligned

# The scope of ops/timestep for models whose softmax is excluded, and for those with it included.
WITHOUT_SOFTMAX = "without embedding and softmax"
WITH_SOFTMAX = "encoder, decoder and softmax, gates aside"
OPTIMIZER_COLUMNS = ("adam", "factored_adam")


class Printed(NamedTuple):
    """The figures printed in the paper, in its units; `None` for figures that it does not give.

    Attributes:
        ops_per_timestep: multiply-adds, in millions.
        parameters: parameters without embedding and softmax, in millions.
        total: all parameters, in billions.
    """

    ops_per_timestep: float | None = None
    parameters: float | None = None
    total: float | None = None


NOTHING_PRINTED = Printed()


def cost_report(counts: dict, settings: list[str], printed: Printed = NOTHING_PRINTED) -> str:
    """Formats operations and parameters by layer.

    Args:
        counts: the output of `tfmoe.analysis.operations.describe`.
        settings: one string per block, in order: its settings in the config.
        printed: the paper's figures.
    """
    parameters = counts["parameters"]
    heading = ["layer", "ops/timestep", "parameters", ""]
    rows = [["embedding", "", _grouped(parameters["embedding"]), ""]]
    for (name, ops), text in zip(counts["ops_by_layer"].items(), settings, strict=True):
        rows.append([name, _grouped(ops), _grouped(parameters["by_layer"][name]), text])
    softmax = counts["ops_of_softmax"]
    softmax_ops = _grouped(softmax) if softmax else ""
    rows.append(["softmax", softmax_ops, _grouped(parameters["softmax"]), ""])
    totals = [[*row, ""] for row in _totals(counts, printed)]
    return aligned([heading, *rows, [""] * 4, *totals], "<>><")


def _totals(counts, printed):
    """The last rows of `cost_report`: totals, each followed by the paper's figure."""
    ops, parameters = _grouped(counts["ops_per_timestep"]), counts["parameters"]
    inner = _grouped(parameters["excluding_embedding_and_softmax"])
    paper_ops, paper_inner = (
        figure and f"{figure} M" for figure in (printed.ops_per_timestep, printed.parameters)
    )
    if counts["ops_of_softmax"]:
        rows = [[WITH_SOFTMAX, ops, ""]]
        if paper_ops:  # printed as whole millions
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


def memory_report(result: dict, optimizer: str, sentence_length: int | None = None) -> str:
    """Formats the memory of one device, one column per optimizer.

    Args:
        result: the output of `tfmoe describe --json`.
        optimizer: name of the config's optimizer.
        sentence_length: length of the longest sentences, for a translation model; else `None`.
    """
    memory = result["memory_per_device"]
    experts = memory["experts"]
    by_optimizer = {
        name: memory["optimizer_slots_by_optimizer"][name] for name in OPTIMIZER_COLUMNS
    }
    fixed = memory["weights"] + memory["gradients"]
    optimizer_independent = [
        ("weights", memory["weights"]),
        ("  of these the experts'", experts["weights"]),
        ("gradients", memory["gradients"]),
    ]
    rows = [[name, *[in_units(size)] * len(by_optimizer)] for name, size in optimizer_independent]
    rows.append(["optimizer slots", *map(in_units, by_optimizer.values())])
    expert_slots = [experts["optimizer_slots_by_optimizer"][name] for name in OPTIMIZER_COLUMNS]
    rows.append(["  of these the experts'", *map(in_units, expert_slots)])
    if experts["weights"]:
        shares = (f"{100 * slots / experts['weights']:.3g}%" for slots in expert_slots)
        rows.append(["    beside the experts' weights", *shares])
    for key, name in (("without", "all kept"), ("with", "experts' hidden ones recomputed")):
        activations = memory[f"activations_{key}_recompute"]
        if key == "with" and activations == memory["activations_without_recompute"]:
            continue
        totals = (in_units(fixed + size + activations) for size in by_optimizer.values())
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


def traffic_report(result: dict) -> str:
    """Formats the expert batches and all-to-all traffic, one row per mixture.

    Args:
        result: the output of `tfmoe describe --json`.
    """
    heading = ["mixture", "experts/device", "expert batch", "sent/device and step", "ops/number"]
    rows = [
        [
            name,
            _grouped(mixture["experts_per_device"]),
            f"{mixture['expert_batch']:,.1f}",
            in_units(mixture["bytes_sent"]),
            f"{mixture['compute_to_communication']:,.0f}",
        ]
        for name, mixture in result["mixtures"].items()
    ]
    note = (
        "expert batch: k·b·R/n examples in a step. ops/number: an expert's multiply-adds per\n"
        "number that it takes in or gives out: with one hidden layer its hidden size (1.5 times\n"
        "that in a gated network)."
    )
    return f"{aligned([heading, *rows], '<>>>>')}\n{note}"


def gradient_report(result: dict) -> str:
    """Formats the traffic of the gradients of replicated weights, and of everything together.

    Args:
        result: the output of `tfmoe describe --json`.
    """
    gradients = result["gradient_traffic"]
    rows = [
        ["gradients all-reduced", in_units(gradients["dense"]), ""],
        [
            "gradients of tables",
            in_units(gradients["tables"]),
            f"at most {in_units(gradients['tables_at_most'])}",
        ],
    ]
    if result["mixtures"]:
        rows.append(["rows of mixtures", in_units(result["bytes_sent_per_device"]), ""])
    rows.append(["in all", in_units(result["bytes_sent_in_all"]), ""])
    note = (
        "gradients of tables: of the rows that a step uses, if words are as frequent as in the\n"
        "log-uniform distribution; at most: if no word occurs twice."
    )
    return f"{aligned([['sent/device and step', '', ''], *rows], '<><')}\n{note}"


def _devices(result):
    devices, tokens = result["devices"], _grouped(result["tokens_per_device"])
    return f"{devices} device{'s' if devices > 1 else ''}, {tokens} positions each"


def in_units(num_bytes: int) -> str:
    """Formats bytes in decimal units: `"4.29 GB"`."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:,.2f} {unit}"
    return f"{num_bytes} B"


def _grouped(count):
    """Formats an integer with thousands separators."""
    return f"{count:,}"
