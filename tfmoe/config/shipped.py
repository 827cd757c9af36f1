"""The configs that are shipped with tfmoe. Imports no TensorFlow."""

import difflib
import os
import pathlib
import re
from typing import TypedDict

from tfmoe.config.problems import ConfigError, Problem
from tfmoe.config.yaml_text import parse

# In a checkout a link to `configs/`, in an installation a folder of the package.
ROOT = (pathlib.Path(__file__).parents[1] / "configs").resolve()
COMPARISONS = "compare"  # the folder of the files that `tfmoe compare` reads


class ShippedConfig(TypedDict):
    """An item of `shipped_configs()`.

    Keys:
        path: absolute.
        name: the short name, such as `"lm1b/moe-256"`.
        table: the paper's table that the config reproduces a row of, or `None`.
        row: the row, or `None`.
    """

    path: str
    name: str
    table: str | None
    row: str | None


def shipped_configs() -> list[ShippedConfig]:
    """Lists the shipped configs.

    Returns:
        List of `{"path", "name", "table", "row"}`, sorted by name, with numbers in names sorted by
        value.
    """
    configs: list[ShippedConfig] = []
    for path in sorted(_files(), key=_sort_key):
        tree, _ = parse(path.read_bytes(), str(path))
        paper = tree.get("paper") or {}
        configs.append(
            {
                "path": str(path),
                "name": _short_name(path),
                "table": paper.get("table"),
                "row": paper.get("row"),
            }
        )
    return configs


def find_config(
    name: str | os.PathLike, directory: str | os.PathLike | None = None
) -> pathlib.Path:
    """Finds the file of a CONFIG argument, or of a `base`.

    Args:
        name: a path, or the name of a shipped config: `lm1b/moe-256` or
            `configs/lm1b/moe-256.yaml`. If there is a file at that path, it is used.
        directory: the directory that a path is relative to; `None` for the current one.

    Returns:
        `pathlib.Path`.

    Raises:
        ConfigError: if there is no such file and no such shipped config.
    """
    path, short = _path_and_short_name(name, directory)
    if short in _names(comparisons=True) and kind_of(path) == "nothing":
        message = f"is a comparison, not a config: `tfmoe compare {short}` trains its systems"
        raise ConfigError([Problem(str(name), "", message)])
    return _find(name, path, short, _names(), "config", "`tfmoe configs` lists them")


def find_comparison(name: str | os.PathLike) -> pathlib.Path:
    """Finds the file of a comparison (`tfmoe.config.load_comparison`).

    Args:
        name: a path, or the name of a shipped comparison: `compare/gates` or
            `configs/compare/gates.yaml`. If there is a file at that path, it is used.

    Raises:
        ConfigError: if there is no such file and no such shipped comparison.
    """
    path, short = _path_and_short_name(name, None)
    names = _names(comparisons=True)
    all_names = f"there are {', '.join(shipped_comparisons())}"
    return _find(name, path, short, names, "comparison", all_names)


def shipped_comparisons() -> list[str]:
    """Lists the names of the shipped comparisons, sorted."""
    return sorted(_names(comparisons=True))


def _path_and_short_name(name, directory):
    """The path that a name may be, and its short form for shipped files."""
    name = pathlib.Path(os.path.expanduser(name))
    path = name if directory is None else pathlib.Path(directory) / name
    short = name.as_posix().removeprefix("./").removeprefix("configs/").removesuffix(".yaml")
    return path, short


def _find(name, path, short, names, what, all_names):
    """The file at a path, or the shipped one of a short name.

    Args:
        name: what the user gave, for errors.
        path, short: results of `_path_and_short_name`.
        names: `{short name: path}` of the shipped files.
        what: "config" or "comparison".
        all_names: text that tells the short names.
    """
    kind = kind_of(path)
    if kind == "file":
        return path
    if short in names:
        return names[short]
    if kind == "directory":
        message = f"is a directory; give the path of a {what} file in it"
    elif kind == "special":
        message = "is a device or a pipe; give the path of a regular file"
    else:
        near = difflib.get_close_matches(short, names, n=1) or [
            known for known in sorted(names) if known.rpartition("/")[2] == short
        ]
        hint = f"; did you mean {near[0]}?" if near else ";"
        message = f"no such file, and no shipped {what} of this name{hint} {all_names}"
    raise ConfigError([Problem(str(pathlib.Path(name)), "", message)])


def is_shipped(path):
    """Whether a file is one of the shipped configs."""
    return pathlib.Path(path).resolve().is_relative_to(ROOT)


def kind_of(path):
    """What is at a `pathlib.Path`: "file", "directory", "special" (a device or a pipe), or
    "nothing" if there is nothing or it cannot be read.
    """
    try:
        if path.is_file():
            return "file"
        if path.is_dir():
            return "directory"
        return "special" if path.exists() else "nothing"
    except OSError:  # such as a name that is too long
        return "nothing"


def _names(comparisons=False):
    """`{short name: path}` of the shipped configs or comparisons."""
    return {_short_name(path): path for path in _files(comparisons)}


def _files(comparisons=False):
    """The files of all shipped configs or comparisons, except those whose name begins with an
    underscore: they only serve as a `base`.
    """
    files = (path for path in ROOT.rglob("*.yaml") if not path.name.startswith("_"))
    return [path for path in files if (path.parent == ROOT / COMPARISONS) == comparisons]


def _short_name(path):
    return path.relative_to(ROOT).with_suffix("").as_posix()


def _sort_key(path):
    parts = re.split(r"(\d+)", _short_name(path))
    return [int(part) if part.isdigit() else part for part in parts]
