"""`tfmoe configs`: the shipped configs, or the keys of a config."""

from typing import Annotated

import typer

from tfmoe import tasks
from tfmoe.analysis.columns import aligned
from tfmoe.cli import arguments
from tfmoe.cli.output import print_json
from tfmoe.config.shipped import shipped_configs

Keys = Annotated[
    bool,
    typer.Option(
        "--keys", help="List the keys of a config, with their types, defaults and meanings."
    ),
]
Query = Annotated[
    str | None,
    typer.Argument(
        metavar="KEY",
        show_default=False,
        help="With --keys, list only: the keys at and below a path (training.optimizer), the keys "
        "of a gate, block, corpus or optimizer (noisy_top_k), or all keys of this name.",
    ),
]


def configs(query: Query = None, keys: Keys = False, json: arguments.Json = False):
    """List the shipped configs and the rows of the paper's tables that they reproduce, or all keys
    that a config can have.

    \b
    Examples:
      tfmoe configs
      tfmoe configs --json
      tfmoe configs --keys                        every key: type, default, meaning
      tfmoe configs --keys training.optimizer     the keys at and below this one
      tfmoe configs --keys noisy_top_k            the keys of this gate
      tfmoe configs --keys importance_weight      this key, wherever it occurs

    With --json: a list of {"path", "name", "table", "row"}. Other commands take the path
    or the name as CONFIG, in any directory.

    With --keys and --json: a list of {"key", "name" (the `name` of the section that has the key, or
    null), "type", "required", "default", "choices", "meaning"}.
    """
    if query is not None and not keys:
        raise ValueError(
            f"{query} is given without --keys; tfmoe configs --keys {query} shows this key"
        )
    if keys:
        sections = tasks.config_keys(query)
        print_json(tasks.keys_as_json(sections), 1) if json else print(tasks.keys_text(sections))
        return
    shipped = shipped_configs()
    if json:
        print_json(shipped, indent=1)
        return
    rows = [[item["name"], item["table"] or "-", item["row"] or "-"] for item in shipped]
    print(aligned([["config", "table", "row"], *rows], "<<<"))
