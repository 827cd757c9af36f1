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

    The first pair of models is trained on a synthetic language of known perplexity, and compared as
    soon as it is trained. The second pair is trained on real text: English, Python source and 16
    languages. It is also compared with a Kneser-Ney 5-gram model, as in the paper's tables, whose
    parameters are the n-grams and whose seconds are the time of counting. Both models of a pair are
    trained on the same words in the same order.

    Prints each stage with the estimated time left, the perplexities, and which words each expert
    specialises in. The folder gets a run for each model (grammars/moe, grammars/dense, moe, dense),
    curves.png and summary.json. The command resumes an interrupted demo, and starts again if the
    demo is finished or the settings changed. --set applies to the two models of the real text.

    \b
    Examples:
      tfmoe demo
      tfmoe demo --set training.seed=1 --run-dir runs/demo-1
    """
    with resumable(lambda: "stopped; repeat the command to resume"):
        tasks.run_demo(run_dir, set_ or ())
