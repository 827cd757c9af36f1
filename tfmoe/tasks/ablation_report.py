"""The report of `tfmoe ablate`: runs beside each other and beside the paper, as table, files and
plot."""

import csv
import statistics

from tfmoe.analysis.columns import aligned
from tfmoe.analysis.plots import perplexity_and_load, perplexity_by_experts
from tfmoe.analysis.printable import cell
from tfmoe.data_pipelines.atomic_write import atomic_write
from tfmoe.tasks.measurements import BALANCE, figure, mean
from tfmoe.training.run_directory import RunDirectory

# Costs within this factor count as equal. Those of Figure 2's models, 8.4 to 8.9 million
# ops/timestep, differ by 6%.
SAME_COST = 1.1


def compare(run_dir, rows, papers):
    """Prints the comparison and writes `ablation.csv`, `ablation.png` and `summary.json`.

    Args:
        run_dir: the sweep's folder.
        rows: for each run, its `measurements` and `config`, the name.
        papers: `{name of a config: its paper section, or None}`.
    """
    summaries = {name: summary_of(name, rows, paper) for name, paper in papers.items()}
    num_seeds = len({row["seed"] for row in rows})
    print(f"\n{report(summaries, num_seeds)}\n")
    with atomic_write(run_dir / "ablation.csv") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "config": cell(row["config"])} for row in rows)
    plot(summaries, run_dir / "ablation.png")
    summary = {"seeds": num_seeds, "configs": summaries}
    RunDirectory(run_dir).write_json(run_dir / "summary.json", summary)  # written last
    print(f"Runs, ablation.csv, ablation.png and summary.json are in {run_dir}")


def summary_of(name, rows, paper):
    """The results of one config in `summary.json`: means over its seeds, and the sample standard
    deviation of the perplexity (`None` for one seed).
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


def report(summaries, seeds):
    """The tables that `tfmoe ablate` prints.

    Args:
        summaries: `{name of a config: result of summary_of}`.
        seeds: number of seeds.
    """
    papers = [summary["paper"] or {} for summary in summaries.values()]
    printed = {key for key in ("perplexity", *BALANCE) if any(paper.get(key) for paper in papers)}
    heading = ["config"]
    for key, label in {"perplexity": "perplexity", **BALANCE}.items():
        heading += [label, "paper"] if key in printed else [label]
    train_rows, test_rows = [heading], [["config", *BALANCE.values(), "experts", "ops/timestep"]]
    test_rows[0] += ["parameters", "seconds"]
    for (name, summary), paper in zip(summaries.items(), papers, strict=True):
        deviation = summary["perplexity_deviation"]
        perplexity = f"{summary['perplexity']:.2f}"
        row = [perplexity if deviation is None else f"{perplexity} ± {deviation:.2f}"]
        row += [figure(paper.get("perplexity"), 1)] if "perplexity" in printed else []
        for key in BALANCE:
            row += [figure(summary["train"][key])]
            row += [figure(paper.get(key))] if key in printed else []
        train_rows.append([name, *row])
        counts = [summary["num_experts"], summary["ops_per_timestep"], summary["parameters"]]
        row = [*map(figure, summary["test"].values()), *(f"{count:,}" for count in counts)]
        test_rows.append([name, *row, f"{summary['seconds']:.0f}"])
    over = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    parts = [
        f"Test perplexity ({over}); load balance over the training batches of the last epoch, as "
        "in Table 6",
        aligned(train_rows, "<" + ">" * (len(heading) - 1)),
    ]
    if printed:
        tables = sorted({paper["table"] for paper in papers if paper})
        parts.append(f"paper: printed in {', '.join(tables)}, for the paper's models and text")
    parts += [
        "\nLoad balance over the batches of the test text, at evaluation (without noise)",
        aligned(test_rows, "<" + ">" * (len(test_rows[0]) - 1)),
    ]
    return "\n".join(parts)


def plot(summaries, path):
    """Plots perplexity against the number of experts if the configs differ in that number and cost
    the same; perplexity and load of each config otherwise.
    """
    points = [
        (summary["num_experts"], summary["perplexity"], summary["perplexity_deviation"] or 0.0)
        for summary in summaries.values()
    ]
    if differ_in_experts(summaries.values()):
        ops = statistics.median_low(summary["ops_per_timestep"] for summary in summaries.values())
        perplexity_by_experts(points, path, f"More experts at {ops:,} ops/timestep")
    else:
        loads = {
            label: [summary[part]["max_over_mean_load"] for summary in summaries.values()]
            for label, part in (("training, last epoch", "train"), ("test text", "test"))
        }
        perplexity_and_load(list(summaries), [point[1:] for point in points], loads, path)


def differ_in_experts(summaries):
    """Whether all models are mixtures, differ in the number of experts, and cost the same."""
    num_experts = {summary["num_experts"] for summary in summaries}
    ops = [summary["ops_per_timestep"] for summary in summaries]
    return len(num_experts) > 1 and min(num_experts) > 0 and max(ops) <= SAME_COST * min(ops)
