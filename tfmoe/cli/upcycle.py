"""`tfmoe upcycle`: makes a mixture of a trained dense model."""

import contextlib
import sys
from typing import Annotated

import typer

from tfmoe import tasks
from tfmoe.cli import arguments
from tfmoe.cli.output import print_json

Experts = Annotated[int, typer.Option(metavar="N", help="Number of experts of each mixture.")]
K = Annotated[
    int | None,
    typer.Option(
        "--k",
        metavar="N",
        help="Number of experts per token. Default: 2, for gates that have a choice.",
    ),
]
Gate = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="The gate of the mixtures: top_k, noisy_top_k, bias_balanced, … The weights that it "
        "gives a token must sum to a constant.",
    ),
]
Blocks = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="The feed_forward blocks to convert, by their indices in model.blocks: 1,3; of a "
        "translation model encoder[1],decoder[3]; or all. Default: every second one, from the last "
        "one of each list.",
    ),
]
Redrawn = Annotated[
    float,
    typer.Option(
        metavar="FRACTION",
        help="Draw the weights of this fraction of each expert's hidden units again, so that the "
        "experts differ (Drop-Upcycling). The outputs then differ from the dense model's.",
    ),
]
Restart = Annotated[
    bool,
    typer.Option(
        "--restart",
        help="Train from step 0, with a new optimizer and the whole learning-rate schedule.",
    ),
]


def upcycle(
    run: arguments.Run,
    out: arguments.NewRun,
    experts: Experts = 8,
    k: K = None,
    gate: Gate = "top_k",
    blocks: Blocks = None,
    redrawn: Redrawn = 0.0,
    restart: Restart = False,
    set_: arguments.Set = None,
    json: arguments.Json = False,
):
    """Make a mixture of experts of a trained dense model (Komatsuzaki et al. 2023).

    OUT becomes a run whose feed_forward blocks are mixtures. Every expert is a copy of the trained
    network, and the gate is drawn anew. The other weights, the optimizer's state, the step counter,
    the vocabulary and the history are copied. Until it is trained, the new model has the outputs of
    the dense one.

    Mixtures replace every second feed_forward block, as in the papers: k experts cost k times the
    operations of the dense network. --blocks chooses others.

    Train the new run with `tfmoe train OUT/config.yaml --run-dir OUT --resume`. Set training.epochs
    to more than the run has finished. If the learning rate has decayed, set the length of the
    schedule too, or use --restart. --set can change the keys of training and
    distribute, and of the new mixtures the gate and the capacity.

    \b
    Examples:
      tfmoe upcycle runs/dense runs/upcycled --set training.epochs=6
      tfmoe upcycle runs/dense runs/upcycled --experts 16 --k 2 --gate noisy_top_k
      tfmoe upcycle runs/dense runs/upcycled --blocks 1,3 --redrawn 0.5
      tfmoe upcycle runs/dense runs/upcycled --set "model.blocks[3].gate.balance_weight=0"

    \b
    With --json: {"run", "made_from", "blocks" (keys of the config), "experts", "k", "gate", "step",
    "epochs" (training.epochs of the new run), "ops_per_timestep" and "parameters" ({"before",
    "after"}), "resume" (the command that goes on)}.
    """
    with contextlib.redirect_stdout(sys.stderr):
        result = tasks.upcycle_run(run, out, experts, k, gate, blocks, redrawn, restart, set_ or ())
    if json:
        print_json(result)
        return
    ops, parameters = result["ops_per_timestep"], result["parameters"]
    print(
        f"{out}: {', '.join(result['blocks'])} of {run} as {experts} experts, "
        f"{result['k']} per token, after {result['step']} steps\n"
        f"ops/timestep {ops['before']:,} -> {ops['after']:,}, parameters "
        f"{parameters['before']:,} -> {parameters['after']:,}\n"
        f"Train it: {result['resume']}"
    )
