"""`tfmoe demo`: mixtures of experts and dense models of the same cost."""

import pathlib
from typing import Annotated

import typer

from tfmoe import tasks
from tfmoe.cli import arguments
from tfmoe.cli.exit_status import resumable


def demo(
    run_dir: Annotated[pathlib.Path, typer.Option(help="Folder of the four runs.")] = pathlib.Path(
        "runs/demo"
    ),
    set_: arguments.Set = None,
):
    """Train mixtures of experts and dense models of the same cost, and compare them.

    The first two models, a mixture and a dense model, learn a synthetic language whose lowest
    possible perplexity is known. The next two learn real text: English, Python source and 16
    languages. They are also compared with a Kneser-Ney 5-gram model of this text, as in the paper's
    tables; its parameters are n-grams, and its seconds are the time to count them. Both models of a
    pair train on the same words in the same order.

    Prints the current stage, an estimate of the time left, the perplexities, and the words that
    each expert specialises in. The folder gets a run for each model (grammars/moe, grammars/dense,
    moe, dense), curves.png and summary.json. The command resumes an interrupted demo. It starts
    again if the demo in the folder is finished or had other settings. --set applies to the two
    models of the real text only.

    \b
    Examples:
      tfmoe demo
      tfmoe demo --set training.seed=1 --run-dir runs/demo-1
    """
    with resumable(lambda: "stopped; the same command resumes it"):
        tasks.run_demo(run_dir, set_ or ())
