"""`tfmoe demo`: mixtures of experts and dense models of the same cost."""

import pathlib
from typing import Annotated

import typer

from tfmoe import tasks
from tfmoe.cli import arguments
from tfmoe.cli.exit_status import resumable


def demo(
    run_dir: Annotated[
        pathlib.Path, typer.Option(help="The folder for all four runs.")
    ] = pathlib.Path("runs/demo"),
    set_: arguments.Set = None,
):
    """Train mixtures of experts and dense models of the same cost, and compare them.

    The first pair learns a synthetic language whose perplexity is known, and is compared as soon as
    it is trained. The second pair learns real text: English, Python source and 16 languages. Beside
    it stands a Kneser-Ney 5-gram model, as in the paper's tables: its parameters are n-grams, its
    seconds those of counting. The models of a pair see the same words in the same order.

    Prints the stage and about how long the rest takes, perplexities, and which words each expert
    specialises in. The folder holds a run for each model (grammars/moe, grammars/dense, moe,
    dense), curves.png and summary.json. The command resumes a demo that was killed. After a
    finished demo, or with other settings, it starts again. --set applies to the two models of the
    real text.

    \b
    Examples:
      tfmoe demo
      tfmoe demo --set training.seed=1 --run-dir runs/demo-1
    """
    with resumable(lambda: "stopped; run the same command to resume"):
        tasks.run_demo(run_dir, set_ or ())
