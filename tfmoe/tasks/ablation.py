"""Trains several configs over several seeds, and compares them with each other and the paper."""

import itertools
import os
import pathlib
from collections.abc import Sequence

from tfmoe.config.loader import load_config
from tfmoe.config.shipped import find_config, shipped_configs
from tfmoe.extras import require
from tfmoe.tasks.ablation_report import compare
from tfmoe.tasks.sweep import check_runs, run_of, train_all


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
    loaded = {name: load_config(path, overrides) for name, path in names.items()}
    runs = [
        run_of(run_dir, name, seed, config)
        for seed, (name, config) in itertools.product(range(seeds), loaded.items())
    ]
    check_runs(runs)
    rows = [{"config": run.name, **row} for run, row in train_all(runs)]
    compare(run_dir, rows, {name: config.paper for name, config in loaded.items()})


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
