"""Several configs trained over several seeds."""

import itertools
import logging
from typing import NamedTuple

import keras

from tfmoe.config.data_schema import corpus_of
from tfmoe.config.loader import load_config
from tfmoe.config.shipped import find_config, shipped_configs
from tfmoe.extras import require
from tfmoe.tasks.comparison import BALANCE, compare, figure, measured
from tfmoe.tasks.corpora import find_splits
from tfmoe.tasks.resume import check_folder
from tfmoe.tasks.train import train_run
from tfmoe.training.run_directory import RunDirectory


class Run(NamedTuple):
    """One training of a sweep.

    Attributes:
        name: of the config.
        seed: of the training.
        config: the `Config`, with that seed.
        folder: the `RunDirectory`.
    """

    name: str
    seed: int
    config: object
    folder: object


def run_sweep(configs, capacity, seeds, overrides, run_dir):
    """Trains what is not trained yet of a sweep, and compares.

    Args:
        configs: paths or names of shipped configs; none for the shipped ones.
        capacity: whether these are capacity/, instead of ablation/.
        seeds: how many.
        overrides: of `--set`, for all.
        run_dir: the sweep's folder.

    Raises:
        MissingExtra: if matplotlib is not installed.
        ValueError: if a config has a mistake or no test text, or a folder has a run of another one.
    """
    require("matplotlib")
    names = named_configs(configs, capacity)
    runs = planned_runs(names, seeds, overrides, run_dir)
    rows = train_all(runs)
    compare(run_dir, rows, {run.name: run.config.paper for run in runs})


def named_configs(configs, capacity):
    """The configs of a sweep by the names of their folders.

    Args:
        configs: paths or names of shipped configs; none for the shipped ones.
        capacity: whether the shipped ones are capacity/, instead of ablation/.

    Returns:
        `{name: path}`.

    Raises:
        ValueError: if one is unknown, or two have the same name.
    """
    if configs and capacity:
        raise ValueError("--capacity names its configs itself: leave it or the CONFIGs out")
    if not configs:
        folder = "capacity/" if capacity else "ablation/"
        configs = [each["name"] for each in shipped_configs() if each["name"].startswith(folder)]
    found = {}
    for config in configs:
        path = find_config(config)
        name = path.name.removesuffix(".yaml")
        if name in found:
            raise ValueError(
                f"{found[name]} and {path} are both named {name}, and so would be their folder: "
                "give each config once, or rename one"
            )
        found[name] = path
    return found


def planned_runs(names, seeds, overrides, run_dir):
    """All runs of a sweep, each seed with every config in turn; checked before any is trained.

    Args:
        names: `{name: path}` of the configs.
        seeds: how many.
        overrides: of `--set`.
        run_dir: the sweep's folder.

    Returns:
        List of `Run`.

    Raises:
        ValueError: if a config has a mistake or no test text, or a folder has a run of another one.
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
                f"{name} is a {config.model.name}: a comparison is of language models so far"
            )
        if not find_splits(config).test:
            raise ValueError(f"data.test: is empty in {name}, but a comparison needs test text")
    return runs


def is_finished(run):
    """Whether a run has been trained to its end and evaluated on test text. Its folder must have
    been checked.
    """
    if not (run.folder.begun() and run.folder.result.exists()):
        return False
    result = run.folder.read_json(run.folder.result)
    wanted = {"epochs": run.config.training.epochs, "evaluated_on": "test"}
    return all(result.get(key) == value for key, value in wanted.items())


def train_all(runs):
    """Trains what is not finished, with a line on each run.

    Returns:
        List of what `measured` gives, for each run.
    """
    logging.getLogger("tensorflow").addFilter(not_of_retracing)
    rows = []
    for number, run in enumerate(runs, 1):
        finished = is_finished(run)
        if not finished:
            print(f"\n== {number} of {len(runs)}: {run.name}, seed {run.seed} ==", flush=True)
            train_run(run.config, run.folder.path, resume=True)
            keras.backend.clear_session()  # a sweep must not gather the graphs of all its models
        row = measured(run)
        rows.append(row)
        balance = ", ".join(
            f"{label} {figure(row[f'train_{name}'])}" for name, label in BALANCE.items()
        )
        took = "finished before" if finished else f"{row['seconds']:.0f} s of training"
        print(
            f"[{number}/{len(runs)}] {run.name}, seed {run.seed}: test perplexity "
            f"{row['perplexity']:.2f}; in training {balance}; {took}",
            flush=True,
        )
    return rows


def not_of_retracing(record):
    """Whether a log record is none of TensorFlow's warnings that a function is traced repeatedly:
    here every model has its own.
    """
    return "triggered tf.function retracing" not in record.getMessage()
