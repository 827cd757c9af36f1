"""Configs as plain trees, before they are validated: a base with changes, `--set`, and where each
value came from.
"""

import re

from tfmoe.config.named import item_type, section_at
from tfmoe.config.problems import ConfigError, Problem, key_of, shown
from tfmoe.config.yaml_text import MOST_LEVELS


class Origins:
    """Where each value of a config was written."""

    def __init__(self):
        self._where = {}

    def add(self, where, replaced):
        """Adds a text on top of the earlier ones.

        Args:
            where: `{path: "demo.yaml:7"}` for all paths of the text.
            replaced: the paths where it stands for all that was below them before.
        """
        replaced = set(replaced)
        self._where = {
            path: place
            for path, place in self._where.items()
            if not any(path[:length] in replaced for length in range(len(path) + 1))
        } | where

    def where(self, path):
        """`"demo.yaml:7"` for a path, or for the nearest one around it."""
        for length in range(len(path), -1, -1):
            if path[:length] in self._where:
                return self._where[path[:length]]
        return ""


def leaves(tree, path=()):
    """The paths of everything in a tree that is not a mapping, lists as a whole."""
    if not isinstance(tree, dict):
        return [path]
    return [leaf for key, value in tree.items() for leaf in leaves(value, (*path, key))]


def merge(lower, upper, annotation, metadata=()):
    """A base and what stands on it: mappings are merged key by key, everything else is replaced.

    Where `upper` gives a section another `name`, the arguments that only the earlier one had are
    dropped: a config that says `data: {name: text, …}` need not undo what its base said of other
    data.

    Args:
        lower, upper: trees.
        annotation, metadata: the type of the field that they are values of.
    """
    if not (isinstance(lower, dict) and isinstance(upper, dict)):
        return upper
    if "name" in upper:
        lower = renamed(lower, upper["name"], annotation, metadata)
    result = {**lower, **upper}
    section = section_at(annotation, result, metadata)
    for key in lower.keys() & upper.keys():
        info = section.model_fields.get(key) if section else None
        field = (info.annotation, info.metadata) if info else (object, ())
        result[key] = merge(lower[key], upper[key], *field)
    return result


def renamed(tree, name, annotation, metadata=(), keep=()):
    """A section under another name, without the arguments that only the earlier one had, except
    those to `keep`.
    """
    before = section_at(annotation, tree, metadata)
    after = section_at(annotation, {"name": name}, metadata)
    if before is None or after is None or before is after:
        return tree
    stale = before.model_fields.keys() - after.model_fields.keys() - set(keep)
    return {key: value for key, value in tree.items() if key not in stale}


def parse_key(key):
    """`"model.blocks[1].gate.k"`, or `"model.blocks.1.gate.k"`, as a path."""
    path = ()
    for part in key.split("."):
        match = re.fullmatch(r"([A-Za-z_][\w-]*|[0-9]{1,9})((?:\[[0-9]{1,9}\])*)", part)
        if not match or len(path) > MOST_LEVELS:
            raise ValueError(
                f"{shown(key)} is not a key; write it like model.d_model or model.blocks[1].gate.k"
            )
        first, indices = match.groups()
        path += (int(first) if first.isdigit() else first,)
        path += tuple(map(int, re.findall(r"\d+", indices)))
    return path


def set_value(tree, path, value, root, already_set=()):
    """Sets one value in a tree, in place; mappings on the way that are missing are made.

    Args:
        tree: a dictionary.
        path: keys and indices.
        value: a tree or a scalar.
        root: the `Section` class of the tree.
        already_set: paths set before on the command line; a change of `name` does not drop them.

    Returns:
        The paths of mappings that were made.

    Raises:
        ConfigError: if the path leads through a value that is no mapping or list, or past the end
            of a list.
    """
    annotation, metadata = root, ()
    holder, place = None, None  # where `tree` itself hangs, to replace it
    made = []
    for depth, part in enumerate(path):
        if isinstance(tree, list):
            _check_index(tree, path, depth)
            field = (item_type(annotation), ())
        elif isinstance(tree, dict) and isinstance(part, str):
            section = section_at(annotation, tree, metadata)
            info = section.model_fields.get(part) if section else None
            field = (info.annotation, info.metadata) if info else (object, ())
        else:
            has = f"{key_of(path[:depth])} is {shown(tree)}"
            raise ConfigError([Problem("", key_of(path), f"cannot be set: {has}")])
        if depth == len(path) - 1:
            if part == "name" and holder is not None:
                kept = {other[depth] for other in already_set if other[:depth] == path[:depth]}
                tree = holder[place] = renamed(tree, value, annotation, metadata, kept)
            tree[part] = value
            return made
        if isinstance(tree, dict) and tree.get(part) is None:
            tree[part] = {}
            made.append(path[: depth + 1])
        holder, place, tree = tree, part, tree[part]
        annotation, metadata = field


def _check_index(items, path, depth):
    part = path[depth]
    if isinstance(part, int) and part < len(items):
        return
    key = key_of(path[: depth + 1]) if isinstance(part, int) else key_of(path)
    has = f"has the items 0 to {len(items) - 1}" if items else "is an empty list"
    message = f"there is no such item; {key_of(path[:depth])} {has}"
    raise ConfigError([Problem("", key, message)])
