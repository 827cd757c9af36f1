"""`tfmoe prune`: removes the experts of a trained model that contribute least."""

import contextlib
import sys
from typing import Annotated

import typer

from tfmoe import tasks
from tfmoe.cli import arguments
from tfmoe.cli.output import print_json

Keep = Annotated[
    float,
    typer.Option(metavar="FRACTION", help="The fraction of each mixture's experts to keep."),
]


def prune(
    run: arguments.Run,
    out: arguments.NewRun,
    keep: Keep = 0.5,
    data: arguments.Data = None,
    direction: arguments.Direction = None,
    json: arguments.Json = False,
):
    """Remove the experts of a trained mixture that contribute least (REAP, Lasby et al. 2025).

    The saliency of an expert is the mean, over the tokens that select it, of the gate value times
    the length of the expert's output. It is measured on the run's validation text, or on --data.
    The most salient experts of each moe block are kept, with their columns of the gate and the
    optimizer's state. The perplexity before and after is that on the test text, or on the
    validation text if the run has no test text.

    OUT is a run that `evaluate`, `export` and `inspect` accept. Training it recovers a part of the
    loss: `tfmoe train OUT/config.yaml --run-dir OUT --resume --set training.epochs=N`.

    Flat mixtures with a learned gate can be pruned, not hierarchical ones or those with a hash.

    \b
    Examples:
      tfmoe prune runs/demo/moe runs/pruned
      tfmoe prune runs/demo/moe runs/pruned --keep 0.25 --data "my/*.txt" --json

    \b
    With --json: {"run", "made_from", "mixtures" ({KEY OF THE CONFIG: {"experts", "kept" (a list of
    experts), "saliency" (of all experts)}}), "perplexity", "ops_per_timestep" and "parameters"
    ({"before", "after"}), "evaluated_on" (test, valid or data), "resume" (the command that goes
    on)}.
    """
    with contextlib.redirect_stdout(sys.stderr):
        result = tasks.prune_run(run, out, keep, data, direction)
    if json:
        print_json(result)
        return
    print(tasks.prune_table(result))
    print(f"\n{out} is the run with fewer experts. Train it further: {result['resume']}")
