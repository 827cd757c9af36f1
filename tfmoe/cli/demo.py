"""`tfmoe demo`: a mixture of experts beside a dense model of the same cost."""

import pathlib
from typing import Annotated

import typer

from tfmoe import tasks
from tfmoe.cli import arguments
from tfmoe.cli.endings import resumable


def demo(
    run_dir: Annotated[pathlib.Path, typer.Option(help="The folder for both runs.")] = pathlib.Path(
        "runs/demo"
    ),
    set_: arguments.Set = None,
):
    """Train a small mixture of experts and a dense model of the same cost, and compare them.

    Both see the same words of the embedded text (English, Python source, eight languages) in the
    same order. Beside them stands a Kneser-Ney 5-gram model, as in the paper's tables: its
    parameters are n-grams, its seconds those of counting. Prints perplexities and which words each
    expert specialises in. The folder gets a run for each model (moe, dense), curves.png and
    summary.json. The command resumes a demo that was killed; it begins anew after a finished one,
    or with other settings. --set is for both models.

    \b
    Examples:
      tfmoe demo
      tfmoe demo --set training.seed=1 --run-dir runs/demo-1
    """
    with resumable(lambda: "stopped; the same command goes on with it"):
        tasks.run_demo(run_dir, set_ or ())
