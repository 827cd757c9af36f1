"""Configs as trees of dictionaries and lists, before validation: merging a base, applying `--set`,
and tracking where each value was written.
"""

import re

from tfmoe.config.named import item_type, section_at
from tfmoe.config.problems import ConfigError, Problem, format_value, key_of
from tfmoe.config.yaml_text import MAX_LEVELS


class Origins:
    """Tracks where each value of a config was written."""

    def __init__(self):
        self._where = {}

    def add(self, where, replaced):
        """Adds a text that overrides the earlier ones.

        Args:
            where: `{path: "demo.yaml:7"}` for all paths of the text.
            replaced: the paths whose earlier values, with all that is below them, it replaces.
        """
        replaced = set(replaced)
        self._where = {
            path: line
            for path, line in self._where.items()
            if not any(path[:length] in replaced for length in range(len(path) + 1))
        } | where

    def where(self, path):
        """`"demo.yaml:7"` for a path, or for its nearest known parent."""
        for length in range(len(path), -1, -1):
            if path[:length] in self._where:
                return self._where[path[:length]]
        return ""


def leaves(tree, path=()):
    """The paths of all values in a tree that are not mappings. A list is one value."""
    if not isinstance(tree, dict):
        return [path]
    return [leaf for key, value in tree.items() for leaf in leaves(value, (*path, key))]


def merge(lower, upper, annotation, metadata=()):
    """Merges a config into its base: mappings are merged key by key, other values are replaced.

    If `upper` changes the `name` of a section, arguments that only the earlier class has are
    dropped: a config with `data: {name: text, …}` need not reset what its base set for another
    corpus.

    Args:
        lower, upper: trees, of the base and of the config.
        annotation, metadata: the type of the field that holds them.
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
    """A section with its `name` changed: arguments that only the earlier class has are dropped,
    except those in `keep`.
    """
    before = section_at(annotation, tree, metadata)
    after = section_at(annotation, {**tree, "name": name}, metadata)
    if before is None or after is None or before is after:
        return tree
    stale = before.model_fields.keys() - after.model_fields.keys() - set(keep)
    return {key: value for key, value in tree.items() if key not in stale}


def parse_key(key):
    """The path of a key such as `"model.blocks[1].gate.k"` or `"model.blocks.1.gate.k"`."""
    path = ()
    for part in key.split("."):
        match = re.fullmatch(r"([A-Za-z_][\w-]*|[0-9]{1,9})((?:\[[0-9]{1,9}\])*)", part)
        if not match or len(path) > MAX_LEVELS:
            raise ValueError(
                f"{format_value(key)} is not a key; keys look like model.d_model or "
                "model.blocks[1].gate.k"
            )
        first, indices = match.groups()
        path += (int(first) if first.isdigit() else first,)
        path += tuple(map(int, re.findall(r"\d+", indices)))
    return path


def set_value(tree, path, value, root, already_set=()):
    """Sets one value in a tree, in place. Creates missing mappings on the way.

    Args:
        tree: a dictionary.
        path: keys and indices.
        value: a tree or a scalar.
        root: the `Section` class of the tree.
        already_set: paths that the command line set before; a change of `name` keeps them.

    Returns:
        The paths of the created mappings.

    Raises:
        ConfigError: if the path leads through a scalar, or past the end of a list.
    """
    annotation, metadata = root, ()
    parent, key_in_parent = None, None  # of `tree`, to replace it
    created = []
    for depth, part in enumerate(path):
        if isinstance(tree, list):
            _check_index(tree, path, depth)
            field = (item_type(annotation), ())
        elif isinstance(tree, dict) and isinstance(part, str):
            section = section_at(annotation, tree, metadata)
            info = section.model_fields.get(part) if section else None
            field = (info.annotation, info.metadata) if info else (object, ())
        else:
            message = f"cannot be set: {key_of(path[:depth])} is {format_value(tree)}"
            raise ConfigError([Problem("", key_of(path), message)])
        if depth == len(path) - 1:
            if part == "name" and parent is not None:
                kept = {other[depth] for other in already_set if other[:depth] == path[:depth]}
                tree = parent[key_in_parent] = renamed(tree, value, annotation, metadata, kept)
            tree[part] = value
            return created
        if isinstance(tree, dict) and tree.get(part) is None:
            tree[part] = {}
            created.append(path[: depth + 1])
        parent, key_in_parent, tree = tree, part, tree[part]
        annotation, metadata = field


def _check_index(items, path, depth):
    part = path[depth]
    if isinstance(part, int) and part < len(items):
        return
    key = key_of(path[: depth + 1]) if isinstance(part, int) else key_of(path)
    content = f"has items 0 to {len(items) - 1}" if items else "is an empty list"
    message = f"there is no such item; {key_of(path[:depth])} {content}"
    raise ConfigError([Problem("", key, message)])
