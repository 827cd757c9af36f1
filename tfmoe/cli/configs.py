"""`tfmoe configs`."""

from tfmoe.analysis.columns import aligned
from tfmoe.cli import arguments
from tfmoe.cli.output import print_json
from tfmoe.config.shipped import shipped_configs


def configs(json: arguments.Json = False):
    """List the shipped configs and the table row each stands for.

    \b
    Examples:
      tfmoe configs
      tfmoe configs --json

    With --json: a list of {"path", "name", "table", "row"}. Both path and name can be given as
    CONFIG to the other commands, from any directory.
    """
    found = shipped_configs()
    if json:
        print_json(found, indent=1)
        return
    rows = [[each["name"], each["table"] or "-", each["row"] or "-"] for each in found]
    print(aligned([["config", "table", "row"], *rows], "<<<"))
