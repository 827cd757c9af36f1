"""Trains the systems of a comparison over several seeds, and compares them in one table."""

import itertools
import os
import pathlib
from collections.abc import Iterable, Sequence

from tfmoe.analysis.operations import ops_per_timestep
from tfmoe.config.builders import build_model
from tfmoe.config.comparison import Comparison, load_comparison
from tfmoe.config.problems import ConfigError, Problem
from tfmoe.extras import require
from tfmoe.tasks.comparison_report import plot, print_report, write_tables
from tfmoe.tasks.measurements import measurements
from tfmoe.tasks.resume import differences
from tfmoe.tasks.sweep import check_runs, is_finished, run_of, train_all


def run_comparison(
    path: str | os.PathLike,
    out: str | os.PathLike,
    seeds: int | None = None,
    only: Sequence[str] = (),
    overrides: Iterable[str] = (),
) -> None:
    """Trains the unfinished runs of a comparison, and compares all finished ones.

    Args:
        path: a YAML file, or the name of a shipped comparison; see `tfmoe.config.load_comparison`.
        out: the folder of the comparison.
        seeds: number of seeds; `None` for the seeds of the file.
        only: the systems to train; empty for all.
        overrides: values of `--set`, for all systems.

    Raises:
        MissingExtra: if matplotlib is not installed.
        ConfigError: if the comparison or the config of a system is invalid, or the systems differ
            in operations, text or length of training.
        FloatingPointError: if the training of all systems diverges. A single run that diverges is
            left out of the table.
        ValueError: if a name in `only` is unknown, a system has no test text or is no language
            model, or a folder has a run of another config.
    """
    require("matplotlib")
    out = pathlib.Path(out)
    comparison = load_comparison(path, overrides)
    for name in only:
        if name not in comparison.configs:
            raise ValueError(
                f"--only must be one of the systems {', '.join(comparison.configs)}, got {name}"
            )
    ops = check_equal(comparison)
    runs = [
        run_of(out, name, seed, config)
        for seed, (name, config) in itertools.product(
            comparison.seeds if seeds is None else range(seeds), comparison.configs.items()
        )
    ]
    check_runs(runs)
    finished = list(filter(is_finished, runs))
    print(f"{len(runs)} runs of {len(ops)} systems, {len(finished)} of them finished")
    print(f"multiply-adds per word: {min(ops.values()):,} to {max(ops.values()):,}", flush=True)
    summary = None
    rows = {run[:2]: measurements(run.config, run.folder) for run in finished}
    chosen = [run for run in runs if not only or run.name in only]
    for run, row in train_all(chosen, skip_diverged=True):
        rows[run[:2]] = row
        ordered = [(each.name, rows[each[:2]]) for each in runs if each[:2] in rows]
        summary = write_tables(out, comparison, ordered)
    if summary is None:
        raise FloatingPointError("the training of all systems diverged")
    plot(summary, out / "comparison.png")
    print_report(out, summary)


def check_equal(comparison: Comparison) -> dict[str, int]:
    """Checks that all systems have the operations of the reference, its text and its length of
    training.

    Returns:
        `{name of a system: multiply-adds per word}`, counted as `tfmoe describe` does.

    Raises:
        ConfigError: if they do not.
    """
    configs, reference = comparison.configs, comparison.reference
    ops = {
        name: ops_per_timestep(build_model(config, config.data.vocabulary.size or 1000))
        for name, config in configs.items()
    }
    problems = []
    for name, config in configs.items():
        more = ops[name] / ops[reference] - 1
        if abs(more) > comparison.tolerance:
            message = (
                f"its {ops[name]:,} multiply-adds per word are {abs(more):.1%} "
                f"{'more' if more > 0 else 'fewer'} than the {ops[reference]:,} of {reference}, "
                f"but tolerance is {comparison.tolerance:.1%}: change its size, such as "
                "hidden_units, or the tolerance"
            )
            problems.append(Problem(comparison.where[name], f"systems.{name}", message))
        for key in different_keys(config, configs[reference]):
            message = f"{key} must be that of {reference}, so that perplexities can be compared"
            problems.append(Problem(comparison.where[name], f"systems.{name}", message))
    if problems:
        raise ConfigError(problems)
    return ops


def different_keys(config, other):
    """The keys that must be equal but are not: those of the text and of the length of training."""
    trees = [
        {
            "data": each.data.model_dump(),
            "training": each.training.model_dump(include={"epochs", "steps_per_epoch"}),
        }
        for each in (config, other)
    ]
    return differences(*trees)
