"""`tfmoe tables`."""

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

    For every model of Tables 1 to 5, 7 and 8: ours, the paper's printed figure, and the difference.
    ops/timestep and parameters are without embedding and softmax, in millions (of translation
    models, Tables 2 to 5, ops/timestep has the softmax but no gates); the total is with them, in
    billions. A figure that does not round to the printed one is marked, with the reason
    below. Nothing is allocated.

    \b
    Examples:
      tfmoe tables
      tfmoe tables --table 8
      tfmoe tables --row MoE-256 --json

    \b
    With --json: a list of {"table", "row", "config", "ops_per_timestep", "parameters", "total"};
    each of the last three is null where nothing is printed, or {"ours", "paper", "difference"
    (numbers of operations or parameters), "within_rounding", "reason" (null, or why not)}.
    """
    results = tasks.recompute_tables(number, row)
    if json:
        print_json(results, indent=1)
    else:
        print(tasks.tables_report(results))
