"""Arguments that several commands share."""

import pathlib
from typing import Annotated, Literal

import typer

Config = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG",
        show_default=False,
        help="A YAML file, or the name of a shipped config, such as lm1b/moe-256.",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        show_default=False,
        help="Change a key of the config, such as model.d_model=128 or "
        "model.blocks[1].gate.k=2. May be given several times.",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there.")
]
RunDir = Annotated[
    pathlib.Path | None,
    typer.Option(help="The run's folder; runs/NAME-OF-CONFIG if not given."),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on with the run in the folder, from its last state."),
]
Weights = Annotated[
    Literal["best", "last"], typer.Option(help="best (by validation perplexity) or last.")
]
Run = Annotated[pathlib.Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
Data = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB",
        help="Text files, one tokenised sentence a line; for translation their common PREFIX "
        "(PREFIX.de, PREFIX.en). May be given repeatedly.",
    ),
]
Direction = Annotated[
    str | None,
    typer.Option(metavar="FROM-TO", help="One direction of a multilingual model, such as en-fr."),
]

MOST_HYPOTHESES = 1000  # of a beam; the paper's have 4 and 12


def check_range(name, value, least, most=None):
    """Raises a ValueError for the value of an option that is out of its range.

    Args:
        name: of the option, such as `--shuffles`.
        value: a number; `None` if it was not given.
        least, most: the smallest and the largest number; `None` for no largest one.
    """
    if value is None or (value >= least and (most is None or value <= most)):
        return
    if most is None:
        raise ValueError(f"{name} must be {least} or more, got {value}")
    raise ValueError(f"{name} must be from {least} to {most:,}, got {value:,}")


def check_beam(beam, nbest):
    """Raises a ValueError for `--beam` and `--nbest` that cannot be; `None` if not given."""
    check_range("--nbest", nbest, 1, MOST_HYPOTHESES)
    check_range("--beam", beam, 1, MOST_HYPOTHESES)
    if beam is not None and beam < (nbest or 1):
        raise ValueError(f"--beam must be at least --nbest {nbest}, got {beam}")
