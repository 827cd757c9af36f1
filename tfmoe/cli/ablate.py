"""`tfmoe ablate`: several configs trained over several seeds, and compared in one table."""

import pathlib
from typing import Annotated

import typer

from tfmoe import tasks
from tfmoe.cli import arguments
from tfmoe.cli.endings import resumable

Configs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONFIG",
        show_default=False,
        help="YAML files or names of shipped configs; the six rows of Table 6 if none is given.",
    ),
]


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
    arguments.check_range("--seeds", seeds, 1, 1000)
    overrides = set_ or []
    if any(each.partition("=")[0].strip() == "training.seed" for each in overrides):
        raise ValueError("--set training.seed: the seeds of a sweep are those of --seeds")
    run_dir = run_dir or pathlib.Path("runs") / ("capacity" if capacity else "ablation")
    with resumable(lambda: "stopped; the same command goes on with it"):
        tasks.run_sweep(configs, capacity, seeds, overrides, run_dir)
