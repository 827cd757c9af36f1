"""`tfmoe tables`: recomputes the paper's tables of operations and parameters."""

from typing import Annotated

import typer

from tfmoe import tasks
from tfmoe.cli import arguments
from tfmoe.cli.output import print_json

Number = Annotated[
    str | None,
    typer.Option(
        "--table", metavar="N", show_default=False, help="Only this table: 1 to 5, 7 or 8."
    ),
]
Row = Annotated[
    str | None,
    typer.Option(metavar="ROW", show_default=False, help="Only this row, such as MoE-256."),
]


def tables(number: Number = None, row: Row = None, json: arguments.Json = False):
    """Recompute the paper's operations and parameters from the shipped configs.

    Prints our figure, the paper's figure and the difference for every model of Tables 1 to 5, 7 and
    8. ops/timestep and parameters exclude embedding and softmax, in millions (ops/timestep of
    translation models, Tables 2 to 5, includes the softmax and excludes gates); the total includes
    them, in billions. A figure that does not round to the printed one has a reference to the
    reason. No weights are allocated.

    \b
    Examples:
      tfmoe tables
      tfmoe tables --table 8
      tfmoe tables --row MoE-256 --json

    \b
    With --json: a list of {"table", "row", "config", "ops_per_timestep", "parameters", "total"};
    each of the last three is null if the paper prints no figure, or {"ours", "paper", "difference"
    (numbers of operations or parameters), "within_rounding", "reason" (null, or why not)}.
    """
    results = tasks.recompute_tables(number, row)
    if json:
        print_json(results, indent=1)
    else:
        print(tasks.tables_report(results))
