"""`tfmoe ablate`: trains several configs over several seeds, and compares them in one table."""

import pathlib
from typing import Annotated

import typer

from tfmoe import tasks
from tfmoe.cli import arguments
from tfmoe.cli.exit_status import resumable

Configs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONFIG",
        show_default=False,
        help="YAML files or names of shipped configs. Default: the six rows of Table 6.",
    ),
]


def ablate(
    configs: Configs = None,
    capacity: Annotated[
        bool,
        typer.Option(
            "--capacity", help="Train the shipped configs of 4 to 256 experts at equal cost."
        ),
    ] = False,
    seeds: Annotated[
        int, typer.Option(metavar="N", help="Train each config with the seeds 0 to N-1.")
    ] = 1,
    set_: arguments.Set = None,
    run_dir: Annotated[
        pathlib.Path | None,
        typer.Option(
            show_default=False,
            help="Folder of all runs. Default: runs/ablation, or runs/capacity with --capacity.",
        ),
    ] = None,
):
    """Train several configs over several seeds, and compare perplexity and load balance.

    Prints test perplexity, CV(Importance), CV(Load) and max/mean load of every config, next to the
    paper's figures. The folder gets one run per config and seed (CONFIG/seed-0, …), ablation.csv
    (one row per run), ablation.png and summary.json. If the configs differ in the number of experts
    at equal cost, the plot shows perplexity against the number of experts (Figure 2, left).

    Finished runs are not trained again: repeat the command to resume an interrupted sweep, or with
    a larger --seeds to add runs. --set applies to all configs.

    \b
    Examples:
      tfmoe ablate                                  Table 6: the balancing losses
      tfmoe ablate --seeds 3                        with standard deviations
      tfmoe ablate --capacity --seeds 3             Figure 2: 4 to 256 experts at equal cost
      tfmoe ablate my/a.yaml my/b.yaml --set training.epochs=2 --run-dir runs/mine
    """
    arguments.check_range("--seeds", seeds, 1, 1000)
    overrides = set_ or []
    if any(override.partition("=")[0].strip() == "training.seed" for override in overrides):
        raise ValueError("--set training.seed: choose the seeds of a sweep with --seeds")
    run_dir = run_dir or pathlib.Path("runs") / ("capacity" if capacity else "ablation")
    with resumable(lambda: "stopped; repeat the command to resume"):
        tasks.run_sweep(configs, capacity, seeds, overrides, run_dir)
