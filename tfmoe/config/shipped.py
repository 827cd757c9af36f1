"""The configs that come with tfmoe. Imports no TensorFlow."""

import difflib
import os
import pathlib
import re

from tfmoe.config.problems import ConfigError, Problem
from tfmoe.config.yaml_text import parse

# A link to `configs/` in a checkout, a folder of the package in an installation.
ROOT = (pathlib.Path(__file__).parents[1] / "configs").resolve()


def shipped_configs():
    """Lists the shipped configs.

    Returns:
        List of `{"path", "name", "table", "row"}`, sorted by name, numbers in it by value: an
        absolute path; the short name, such as `"lm1b/moe-256"`; and the table row it stands for, or
        `None` if it stands for none.
    """
    found = []
    for path in sorted(_files(), key=_sort_key):
        tree, _ = parse(path.read_bytes(), str(path))
        paper = tree.get("paper") or {}
        found.append(
            {
                "path": str(path),
                "name": _short_name(path),
                "table": paper.get("table"),
                "row": paper.get("row"),
            }
        )
    return found


def find_config(name):
    """The file that a CONFIG argument means.

    Args:
        name: a path, or the name of a shipped config: `lm1b/moe-256` or
            `configs/lm1b/moe-256.yaml`. A file of that path, where there is one, comes first.

    Returns:
        `pathlib.Path`.

    Raises:
        ConfigError: if there is no such file and no such shipped config.
    """
    path = pathlib.Path(os.path.expanduser(name))
    kind = kind_of(path)
    if kind == "file":
        return path
    short = path.as_posix().removeprefix("./").removeprefix("configs/").removesuffix(".yaml")
    names = {_short_name(file): file for file in _files()}
    if short in names:
        return names[short]
    if kind == "directory":
        raise ConfigError([Problem(str(name), "", "is a directory; name a config file in it")])
    if kind == "special":
        raise ConfigError([Problem(str(name), "", "is a device or a pipe; name a regular file")])
    near = difflib.get_close_matches(short, names, n=1) or [
        known for known in sorted(names) if known.rpartition("/")[2] == short
    ]
    hint = f"; did you mean {near[0]}?" if near else ";"
    message = f"no such file, and no shipped config of this name{hint} `tfmoe configs` lists them"
    raise ConfigError([Problem(str(name), "", message)])


def kind_of(path):
    """What there is at a `pathlib.Path`: "file", "directory", "special" (a device or a pipe), or
    "nothing" that can be read.
    """
    try:
        if path.is_file():
            return "file"
        if path.is_dir():
            return "directory"
        return "special" if path.exists() else "nothing"
    except OSError:  # such as a name that is too long
        return "nothing"


def _files():
    """All shipped files but those whose name begins with an underscore, which are only there to be
    a `base`.
    """
    return [path for path in ROOT.rglob("*.yaml") if not path.name.startswith("_")]


def _short_name(path):
    return path.relative_to(ROOT).with_suffix("").as_posix()


def _sort_key(path):
    parts = re.split(r"(\d+)", _short_name(path))
    return [int(part) if part.isdigit() else part for part in parts]
