"""Arguments and options that several commands share."""

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
        "model.blocks[1].gate.k=2. Can be repeated.",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON on standard output, and nothing else.")
]
RunDir = Annotated[
    pathlib.Path | None,
    typer.Option(help="The run's folder. Default: runs/NAME-OF-CONFIG."),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Resume the run in the folder from its last saved state."),
]
Weights = Annotated[
    Literal["best", "last"],
    typer.Option(help="The weights to use: best (by validation perplexity) or last."),
]
Run = Annotated[pathlib.Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
NewRun = Annotated[
    pathlib.Path, typer.Argument(metavar="OUT", help="The folder of the new run; must not exist.")
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB",
        help="Text files with one tokenised sentence per line; for translation the common PREFIX "
        "of PREFIX.de and PREFIX.en. Files that end in .jsonl, .ndjson, .json or .parquet are "
        "read as such. Can be repeated.",
    ),
]
Direction = Annotated[
    str | None,
    typer.Option(metavar="FROM-TO", help="A direction of a multilingual model, such as en-fr."),
]

MAX_HYPOTHESES = 1000  # of a beam; the paper uses 4 and 12


def check_range(name, value, minimum, maximum=None):
    """Raises a ValueError if the value of an option is out of range.

    Args:
        name: the option, such as `--shuffles`.
        value: a number; `None` if the option was not given.
        minimum: the smallest valid number.
        maximum: the largest valid number; `None` for no limit.
    """
    if value is None or (value >= minimum and (maximum is None or value <= maximum)):
        return
    if maximum is None:
        raise ValueError(f"{name} must be {minimum} or more, got {value}")
    raise ValueError(f"{name} must be from {minimum} to {maximum:,}, got {value:,}")


def check_beam(beam, nbest):
    """Raises a ValueError for invalid values of `--beam` and `--nbest`; `None` if not given."""
    check_range("--nbest", nbest, 1, MAX_HYPOTHESES)
    check_range("--beam", beam, 1, MAX_HYPOTHESES)
    if beam is not None and beam < (nbest or 1):
        raise ValueError(f"--beam must be at least --nbest {nbest}, got {beam}")
