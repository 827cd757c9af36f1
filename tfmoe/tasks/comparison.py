"""What the runs of a sweep measured, beside one another and the paper: table, files and plot."""

import csv
import statistics

from tfmoe.analysis.columns import aligned
from tfmoe.analysis.plots import perplexity_and_load, perplexity_by_experts
from tfmoe.analysis.printable import cell
from tfmoe.data_pipelines.atomic_write import atomic_write
from tfmoe.training.run_directory import RunDirectory

# What a mixture reports of the use of its experts, as the schema's `paper` section calls it too.
BALANCE = {
    "cv_importance": "CV(Importance)",
    "cv_load": "CV(Load)",
    "max_over_mean_load": "max/mean load",
}
SAME_COST = 1.1  # the ops/timestep of Figure 2's models, 8.4 to 8.9 million, are 6% apart


def measured(run):
    """What a finished run measured: a row of `ablation.csv`.

    `train_` columns are means over the training batches of the last epoch, which is what Table 6
    prints; `test_` columns over the batches of the test text. They are empty (`None`) for a model
    without a mixture, and averaged over the mixtures of a model with several.
    """
    result = run.folder.read_json(run.folder.result)
    epochs = run.folder.read_history()
    last = epochs[-1] if epochs else {}
    return {
        "config": run.name,
        "seed": run.seed,
        "num_experts": max(getattr(block, "num_experts", 0) for block in run.config.model.blocks),
        "ops_per_timestep": result["ops_per_timestep"],
        "parameters": result["parameters"]["total"],
        "perplexity": result["perplexity"],
        **{f"train_{name}": mean_of_mixtures(last, name) for name in BALANCE},
        **{f"test_{name}": mean_of_mixtures(result, name) for name in BALANCE},
        "words_trained": result["words_trained"],
        "seconds": result["seconds"],
    }


def mean_of_mixtures(logs, metric):
    """The mean of a metric over the mixtures of a model, validation aside; `None` if it has none.

    Args:
        logs: `{"moe_1_cv_load": value, …}`, among others.
        metric: such as `"cv_load"`.
    """
    return mean(
        value
        for name, value in logs.items()
        if name.endswith(f"_{metric}") and not name.startswith("val_")
    )


def mean(values):
    """The mean of the values that there are, `None` of none."""
    values = [value for value in values if value is not None]
    return statistics.fmean(values) if values else None


def compare(run_dir, rows, papers):
    """Prints the comparison and writes `ablation.csv`, `ablation.png` and `summary.json`.

    Args:
        run_dir: the sweep's folder.
        rows: list of what `measured` gives.
        papers: `{name of a config: its paper section, or None}`.
    """
    found = {name: summary_of(name, rows, paper) for name, paper in papers.items()}
    seeds = len({row["seed"] for row in rows})
    print(f"\n{report(found, seeds)}\n")
    with atomic_write(run_dir / "ablation.csv") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "config": cell(row["config"])} for row in rows)
    plot(found, run_dir / "ablation.png")
    summary = {"seeds": seeds, "configs": found}
    RunDirectory(run_dir).write_json(run_dir / "summary.json", summary)  # last: it is finished
    print(f"Runs, ablation.csv, ablation.png and summary.json are in {run_dir}")


def summary_of(name, rows, paper):
    """One config over its seeds, as in `summary.json`: means, and the sample standard deviation of
    the perplexity (`None` for one seed).
    """
    rows = [row for row in rows if row["config"] == name]
    perplexities = [row["perplexity"] for row in rows]
    return {
        **{key: rows[0][key] for key in ("num_experts", "ops_per_timestep", "parameters")},
        "perplexity": statistics.fmean(perplexities),
        "perplexity_deviation": statistics.stdev(perplexities) if len(rows) > 1 else None,
        "train": {metric: mean(row[f"train_{metric}"] for row in rows) for metric in BALANCE},
        "test": {metric: mean(row[f"test_{metric}"] for row in rows) for metric in BALANCE},
        "seconds": statistics.fmean(row["seconds"] for row in rows),
        "paper": None if paper is None else paper.model_dump(),
    }


def report(found, seeds):
    """The tables that `tfmoe ablate` prints.

    Args:
        found: `{name of a config: what summary_of gives}`.
        seeds: how many there were.
    """
    papers = [each["paper"] or {} for each in found.values()]
    shown = {key for key in ("perplexity", *BALANCE) if any(paper.get(key) for paper in papers)}
    heading = ["config"]
    for key, label in {"perplexity": "perplexity", **BALANCE}.items():
        heading += [label, "paper"] if key in shown else [label]
    in_training, in_test = [heading], [["config", *BALANCE.values(), "experts", "ops/timestep"]]
    in_test[0] += ["parameters", "seconds"]
    for (name, each), paper in zip(found.items(), papers, strict=True):
        spread = each["perplexity_deviation"]
        line = [f"{each['perplexity']:.2f}" + ("" if spread is None else f" ± {spread:.2f}")]
        line += [figure(paper.get("perplexity"), 1)] if "perplexity" in shown else []
        for key in BALANCE:
            line += [figure(each["train"][key])]
            line += [figure(paper.get(key))] if key in shown else []
        in_training.append([name, *line])
        counts = [each["num_experts"], each["ops_per_timestep"], each["parameters"]]
        in_test.append([name, *map(figure, each["test"].values()), *(f"{n:,}" for n in counts)])
        in_test[-1].append(f"{each['seconds']:.0f}")
    over = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    parts = [
        f"Perplexity on the test text ({over}); use of the experts over the training batches of "
        "the last epoch, as in Table 6",
        aligned(in_training, "<" + ">" * (len(heading) - 1)),
    ]
    if shown:
        tables = sorted({paper["table"] for paper in papers if paper})
        parts.append(f"paper: as printed in {', '.join(tables)}, for its own models and text")
    parts += [
        "\nUse of the experts over the batches of the test text, at evaluation (without noise)",
        aligned(in_test, "<" + ">" * (len(in_test[0]) - 1)),
    ]
    return "\n".join(parts)


def figure(value, decimals=2):
    """A figure in a table, `-` for none."""
    return "-" if value is None else f"{value:.{decimals}f}"


def plot(found, path):
    """Perplexity against the number of experts if that is what the configs differ in, else
    perplexity and load of each.
    """
    points = [
        (each["num_experts"], each["perplexity"], each["perplexity_deviation"] or 0.0)
        for each in found.values()
    ]
    if differ_in_experts(found.values()):
        ops = statistics.median_low(each["ops_per_timestep"] for each in found.values())
        perplexity_by_experts(points, path, f"More experts at {ops:,} ops/timestep")
    else:
        loads = {
            label: [each[part]["max_over_mean_load"] for each in found.values()]
            for label, part in (("training, last epoch", "train"), ("test text", "test"))
        }
        perplexity_and_load(list(found), [point[1:] for point in points], loads, path)


def differ_in_experts(summaries):
    """Whether all are mixtures, of different numbers of experts, at nearly the same cost."""
    numbers = {each["num_experts"] for each in summaries}
    ops = [each["ops_per_timestep"] for each in summaries]
    return len(numbers) > 1 and min(numbers) > 0 and max(ops) <= SAME_COST * min(ops)
