"""Trains several configs over several seeds."""

import itertools
import logging
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import keras

from tfmoe.config.data_schema import corpus_of
from tfmoe.config.loader import load_config
from tfmoe.config.shipped import find_config, shipped_configs
from tfmoe.extras import require
from tfmoe.tasks.comparison import BALANCE, compare, figure, measurements
from tfmoe.tasks.corpora import find_splits
from tfmoe.tasks.resume import check_folder
from tfmoe.tasks.train import train_run
from tfmoe.training.run_directory import RunDirectory


class Run(NamedTuple):
    """One training of a sweep.

    Attributes:
        name: of the config.
        seed: seed of the training.
        config: the `Config` with that seed.
        folder: the `RunDirectory`.
    """

    name: str
    seed: int
    config: object
    folder: object


def run_sweep(
    configs: Sequence[str] | None,
    capacity: bool,
    seeds: int,
    overrides: Sequence[str],
    run_dir: str | os.PathLike,
) -> None:
    """Trains the unfinished runs of a sweep, and compares all runs.

    Args:
        configs: paths or names of shipped configs; none for the configs of ablation/ or capacity/.
        capacity: whether to use the configs of capacity/ instead of ablation/.
        seeds: number of seeds.
        overrides: values of `--set`, for all configs.
        run_dir: the sweep's folder.

    Raises:
        MissingExtra: if matplotlib is not installed.
        ValueError: if a config is invalid or has no test text, or a folder has a run of another
            config.
    """
    require("matplotlib")
    run_dir = pathlib.Path(run_dir)
    names = named_configs(configs, capacity)
    runs = planned_runs(names, seeds, overrides, run_dir)
    rows = train_all(runs)
    compare(run_dir, rows, {run.name: run.config.paper for run in runs})


def named_configs(configs, capacity):
    """The configs of a sweep by name, which is also the name of their folder.

    Args:
        configs, capacity: as for `run_sweep`.

    Returns:
        `{name: path}`.

    Raises:
        ValueError: if a config is unknown, or two have the same name.
    """
    if configs and capacity:
        raise ValueError("--capacity chooses the configs: give either --capacity or CONFIGs")
    if not configs:
        folder = "capacity/" if capacity else "ablation/"
        names = (config["name"] for config in shipped_configs())
        configs = [name for name in names if name.startswith(folder)]
    paths = {}
    for config in configs:
        path = find_config(config)
        name = path.name.removesuffix(".yaml")
        if name in paths:
            raise ValueError(
                f"{paths[name]} and {path} have the same name, {name}, and would have the same "
                "folder: give each config once, or rename one"
            )
        paths[name] = path
    return paths


def planned_runs(names, seeds, overrides, run_dir):
    """Plans all runs of a sweep: for each seed, every config. Checks them before any is trained.

    Args:
        names: `{name: path}` of the configs.
        seeds: number of seeds.
        overrides: values of `--set`.
        run_dir: the sweep's folder.

    Returns:
        List of `Run`.

    Raises:
        ValueError: as for `run_sweep`.
    """
    runs = []
    for seed, (name, path) in itertools.product(range(seeds), names.items()):
        config = load_config(path, [*overrides, f"training.seed={seed}"])
        runs.append(Run(name, seed, config, RunDirectory(run_dir / name / f"seed-{seed}")))
    for run in runs:
        check_folder(run.config, run.folder, resume=True)
    for name, config in {run.name: run.config for run in runs if not is_finished(run)}.items():
        if corpus_of(config.data).kind != "language":
            raise ValueError(
                f"{name} is a {config.model.name} model: only language models can be compared"
            )
        if not find_splits(config).test:
            raise ValueError(f"data.test: is empty in {name}, but a comparison needs test text")
    return runs


def is_finished(run):
    """Whether a run was trained to the end and evaluated on test text. Assumes `check_folder`."""
    if not (run.folder.begun() and run.folder.result.exists()):
        return False
    result = run.folder.read_json(run.folder.result)
    expected = {"epochs": run.config.training.epochs, "evaluated_on": "test"}
    return all(result.get(key) == value for key, value in expected.items())


def train_all(runs):
    """Trains the unfinished runs, and prints a line per run.

    Returns:
        List of the `measurements` of each run.
    """
    logging.getLogger("tensorflow").addFilter(is_not_retracing_warning)
    rows = []
    for position, run in enumerate(runs, 1):
        finished = is_finished(run)
        if not finished:
            print(f"\n== {position} of {len(runs)}: {run.name}, seed {run.seed} ==", flush=True)
            train_run(run.config, run.folder.path, resume=True)
            keras.backend.clear_session()  # frees the graphs of the model
        row = measurements(run)
        rows.append(row)
        balance = ", ".join(
            f"{label} {figure(row[f'train_{name}'])}" for name, label in BALANCE.items()
        )
        time = "already finished" if finished else f"{row['seconds']:.0f} s of training"
        print(
            f"[{position}/{len(runs)}] {run.name}, seed {run.seed}: test perplexity "
            f"{row['perplexity']:.2f}; in training {balance}; {time}",
            flush=True,
        )
    return rows


def is_not_retracing_warning(record):
    """Whether a log record is not TensorFlow's warning about retracing. In a sweep every model is
    traced.
    """
    return "triggered tf.function retracing" not in record.getMessage()
