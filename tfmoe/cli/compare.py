"""`tfmoe compare`: trains several systems at equal operations over several seeds, in one table."""

import pathlib
from typing import Annotated

import typer

from tfmoe import tasks
from tfmoe.cli import arguments
from tfmoe.cli.exit_status import resumable
from tfmoe.config.shipped import find_comparison


def compare(
    comparison: Annotated[
        str,
        typer.Argument(
            metavar="COMPARISON",
            show_default=False,
            help="A YAML file, or the name of a shipped comparison: compare/gates, "
            "compare/gates_text or compare/architectures.",
        ),
    ],
    out: Annotated[
        pathlib.Path | None,
        typer.Option(
            show_default=False, help="Folder of all runs. Default: runs/compare/NAME-OF-COMPARISON."
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            show_default=False,
            help="Train each system with the seeds 0 to N-1. Default: the seeds of the file.",
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SYSTEM", show_default=False, help="Train this system only. Can be repeated."
        ),
    ] = None,
    set_: arguments.Set = None,
):
    """Train several systems at equal operations over several seeds, and compare them in one table.

    A comparison is a YAML file: a config that all systems share, and for each system the keys in
    which it differs. The key mixtures sets keys of every mixture, such as its gate:

    \b
    For example:
      base: demo/grammars
      seeds: [0, 1, 2]
      reference: NoisyTopK
      tolerance: 0.01
      systems:
        NoisyTopK: {}
        Switch: {mixtures: {hidden_units: 96, gate: {name: switch}}}

    Before any training, all configs are checked. The systems must have the same text, the same
    length of training, and, up to the tolerance, the multiply-adds per word of the reference.

    Prints the mean and standard deviation over the seeds of the test perplexity and of its relative
    difference from the reference with the same seed; max/mean load, experts per token and dropped
    assignments, in training (last epoch) and on the test text; multiply-adds per word, parameters,
    and the time of a training step, by the clock and of the processor. The folder gets one run per
    system and seed (SYSTEM/seed-0, …), comparison.csv (one row per run), comparison.md,
    comparison.json and comparison.png.

    Finished runs are not trained again: repeat the command to resume an interrupted comparison. The
    tables contain all finished runs, so --only can train the systems one by one. A run whose
    training diverges is reported and left out of the tables. --set applies to all systems.

    \b
    Examples:
      tfmoe compare compare/gates
      tfmoe compare compare/gates --seeds 1 --only NoisyTopK --only Switch
      tfmoe compare my.yaml --out runs/mine --set training.epochs=2
    """
    arguments.check_range("--seeds", seeds, 1, 1000)
    overrides = set_ or []
    if any(override.partition("=")[0].strip() == "training.seed" for override in overrides):
        raise ValueError("--set training.seed: choose the seeds of a comparison with --seeds")
    path = find_comparison(comparison)  # fails before TensorFlow is loaded
    out = out or pathlib.Path("runs") / "compare" / path.stem
    with resumable(lambda: "stopped; repeat the command to resume"):
        tasks.run_comparison(comparison, out, seeds, only or (), overrides)
