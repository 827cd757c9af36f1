"""The report of `tfmoe compare`: tables on the terminal, as CSV, JSON and Markdown, and a plot."""

import csv
import os
import pathlib
import statistics
from collections.abc import Sequence

from tfmoe.analysis.columns import aligned
from tfmoe.analysis.plots import perplexity_and_load
from tfmoe.analysis.printable import cell, printable
from tfmoe.config.comparison import Comparison
from tfmoe.data_pipelines.atomic_write import atomic_write
from tfmoe.tasks.measurements import OF_MIXTURES, STEP_TIMES
from tfmoe.training.run_directory import RunDirectory

# What the runs of a system have in common, and what is averaged over them.
COUNTS = ("num_experts", "ops_per_timestep", "parameters", "words_trained")
AVERAGED = (
    "perplexity",
    *(f"{part}_{name}" for part in ("train", "test") for name in OF_MIXTURES),
    *STEP_TIMES,
    "seconds",
)
FILES = ("comparison.csv", "comparison.md", "comparison.json", "comparison.png")
CAPTIONS = (
    "Perplexity, and load of the experts: over the training batches of the last epoch, and at test "
    "over the batches of the test text.",
    "Cost: multiply-adds per word, and milliseconds per training step by the clock and of the "
    "processor (all threads).",
)


def write_tables(
    out: pathlib.Path, comparison: Comparison, rows: Sequence[tuple[str, dict]]
) -> dict:
    """Writes `comparison.csv`, `comparison.md` and `comparison.json`.

    Args:
        out: the comparison's folder.
        comparison: the `Comparison`.
        rows: for each finished run, the system's name and the run's `measurements`.

    Returns:
        The content of `comparison.json`: `reference`, and `systems`, `{name: result of
        summary_of}`.
    """
    by_system: dict[str, list] = {}
    for name, row in rows:
        by_system.setdefault(name, []).append(row)
    reference = comparison.reference
    systems = {
        name: summary_of(by_system[name], by_system.get(reference, []))
        for name in comparison.configs
        if name in by_system
    }
    with atomic_write(out / "comparison.csv") as file:
        writer = csv.DictWriter(file, ["system", *rows[0][1]], lineterminator="\n")
        writer.writeheader()
        writer.writerows({"system": cell(name), **row} for name, row in rows)
    summary = {"reference": reference, "systems": systems}
    with atomic_write(out / "comparison.md") as file:
        file.write(f"# {comparison.name}\n\n{markdown(summary)}\n")
    RunDirectory(out).write_json(out / "comparison.json", summary)
    return summary


def summary_of(rows: list[dict], reference_rows: list[dict]) -> dict:
    """The results of one system: `seeds`, the figures that its runs have in common, and of the
    others `{"mean", "deviation"}` over the seeds (sample standard deviation, `None` for one seed).

    `perplexity_over_reference` is the relative difference from the reference's perplexity with the
    same seed.

    Args:
        rows: the `measurements` of the system's runs.
        reference_rows: those of the reference's runs.
    """
    reference = {row["seed"]: row["perplexity"] for row in reference_rows}
    differences = [
        row["perplexity"] / reference[row["seed"]] - 1 for row in rows if row["seed"] in reference
    ]
    return {
        "seeds": [row["seed"] for row in rows],
        **{name: rows[0][name] for name in COUNTS},
        **{name: spread(row[name] for row in rows) for name in AVERAGED},
        "perplexity_over_reference": spread(differences),
    }


def spread(values):
    """`{"mean", "deviation"}` of the values that are not `None`."""
    values = [value for value in values if value is not None]
    return {
        "mean": statistics.fmean(values) if values else None,
        "deviation": statistics.stdev(values) if len(values) > 1 else None,
    }


def tables(summary):
    """The two tables of a comparison: lists of rows of text, the headings first.

    Args:
        summary: result of `write_tables`.
    """
    use = [["system", "perplexity", f"vs {summary['reference']}"]]
    use[0] += ["max/mean load", "at test", "experts/token", "at test", "dropped", "at test"]
    cost = [
        ["system", "multiply-adds", "parameters", "words", "step, ms", "processor, ms", "seeds"]
    ]
    for name, system in summary["systems"].items():
        row = [name, text(system["perplexity"]), text(system["perplexity_over_reference"], "+.1%")]
        for metric, style in (
            ("max_over_mean_load", ".2f"), ("selected_per_token", ".2f"), ("dropped", ".1%"),
        ):  # fmt: skip
            row += [text(system[f"{part}_{metric}"], style) for part in ("train", "test")]
        use.append(row)
        counts = (f"{system[key]:,}" for key in ("ops_per_timestep", "parameters", "words_trained"))
        times = (text(system[key], ".0f", 1000) for key in STEP_TIMES)
        cost.append([name, *counts, *times, str(len(system["seeds"]))])
    return use, cost


def text(value, style=".2f", factor=1):
    """Formats a result of `spread`: `"2.31 ± 0.02"`; `-` for a missing value. Deviations that round
    to 0 are left out.
    """
    if value["mean"] is None:
        return "-"
    mean, deviation = (factor * (value[key] or 0.0) for key in ("mean", "deviation"))
    spread = format(deviation, style.removeprefix("+"))
    return format(mean, style) + (f" ± {spread}" if spread.strip("0.%") else "")


def markdown(summary):
    """The two tables as Markdown, with their captions."""
    parts = []
    for caption, rows in zip(CAPTIONS, tables(summary), strict=True):
        rows = [[printable(each).replace("|", "\\|") for each in row] for row in rows]
        rule = ["---", *["---:"] * (len(rows[0]) - 1)]
        lines = [f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:])]
        parts += [caption, "\n".join(lines)]
    return "\n\n".join(parts)


def plot(summary: dict, path: str | os.PathLike | None = None):
    """Plots perplexity, load and processor time of all systems.

    Args:
        summary: the content of `comparison.json`.
        path: path of the PNG file; `None` to write no file.

    Returns:
        A matplotlib `Figure`.
    """
    systems = summary["systems"].values()
    reference = summary["systems"].get(summary["reference"])
    return perplexity_and_load(
        list(summary["systems"]),
        [(each["perplexity"]["mean"], each["perplexity"]["deviation"] or 0.0) for each in systems],
        {
            label: [each[f"{part}_max_over_mean_load"]["mean"] for each in systems]
            for label, part in (("training, last epoch", "train"), ("test text", "test"))
        },
        path,
        costs=[each["processor_seconds_per_step"]["mean"] for each in systems],
        reference=reference and reference["perplexity"]["mean"],
    )


def print_report(out: pathlib.Path, summary: dict) -> None:
    """Prints the tables, and the files of the comparison.

    Args:
        out: the comparison's folder.
        summary: result of `write_tables`.
    """
    num_seeds = max(len(system["seeds"]) for system in summary["systems"].values())
    if num_seeds > 1:
        print(f"\nMean ± standard deviation over {num_seeds} seeds")
    for caption, rows in zip(CAPTIONS, tables(summary), strict=True):
        print(f"\n{caption}\n{aligned(rows, '<' + '>' * (len(rows[0]) - 1))}")
    print(f"\nRuns, {', '.join(FILES[:-1])} and {FILES[-1]} are in {out}")
