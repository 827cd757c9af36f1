"""`tfmoe ablate`: several configs trained over several seeds, and compared in one table."""

import itertools
import logging
import pathlib
import signal
import sys
from typing import Annotated, NamedTuple

import typer

from tfmoe.cli import arguments
from tfmoe.cli.train import train_run
from tfmoe.tasks.comparison import BALANCE, compare, figure, measured
from tfmoe.tasks.tensorflow_import import import_tensorflow

Configs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONFIG",
        show_default=False,
        help="YAML files or names of shipped configs; the six rows of Table 6 if none is given.",
    ),
]


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


def ablate(
    configs: Configs = None,
    capacity: Annotated[
        bool,
        typer.Option("--capacity", help="The shipped configs of 4 to 256 experts at one cost."),
    ] = False,
    seeds: Annotated[
        int, typer.Option(metavar="N", help="Train each config with the seeds 0 to N-1.")
    ] = 1,
    set_: arguments.Set = None,
    run_dir: Annotated[
        pathlib.Path | None,
        typer.Option(
            show_default=False,
            help="The folder for all; runs/ablation if not given, runs/capacity with --capacity.",
        ),
    ] = None,
):
    """Train several configs over several seeds, and compare perplexity and use of the experts.

    Prints test perplexity, CV(Importance), CV(Load) and max/mean load of every config, beside what
    the paper printed. The folder gets a run for each (CONFIG/seed-0, …), ablation.csv (a row per
    run), ablation.png and summary.json. Where the configs differ in the number of experts and cost
    the same, the plot is of perplexity against that number (Figure 2, left).

    What is finished is not trained again: after a kill the same command goes on, and a larger
    --seeds adds to the runs that are there. --set is for all configs.

    \b
    Examples:
      tfmoe ablate                                  Table 6: the balancing losses
      tfmoe ablate --seeds 3                        with standard deviations
      tfmoe ablate --capacity --seeds 3             Figure 2: 4 to 256 experts at one cost
      tfmoe ablate my/a.yaml my/b.yaml --set training.epochs=2 --run-dir runs/mine
    """
    if seeds < 1:
        raise ValueError(f"--seeds must be 1 or more, got {seeds}")
    overrides = set_ or []
    if any(each.partition("=")[0].strip() == "training.seed" for each in overrides):
        raise ValueError("--set training.seed: the seeds of a sweep are those of --seeds")
    names = named_configs(configs, capacity)
    run_dir = run_dir or pathlib.Path("runs") / ("capacity" if capacity else "ablation")
    import_tensorflow()
    try:
        runs = planned_runs(names, seeds, overrides, run_dir)
        rows = train_all(runs)
        compare(run_dir, rows, {run.name: run.config.paper for run in runs})
    except KeyboardInterrupt:
        print("\ntfmoe: stopped; the same command goes on with it", file=sys.stderr)
        raise typer.Exit(128 + signal.SIGINT) from None


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
    from tfmoe.config import find_config, shipped_configs

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
    from tfmoe.config import load_config
    from tfmoe.tasks import find_splits
    from tfmoe.tasks.resume import check_folder
    from tfmoe.training.run_directory import RunDirectory

    runs = []
    for seed, (name, path) in itertools.product(range(seeds), names.items()):
        config = load_config(path, [*overrides, f"training.seed={seed}"])
        runs.append(Run(name, seed, config, RunDirectory(run_dir / name / f"seed-{seed}")))
    for run in runs:
        check_folder(run.config, run.folder, resume=True)
    for name, config in {run.name: run.config for run in runs if not is_finished(run)}.items():
        if config.model.name != "language_model":
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
    import keras

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
