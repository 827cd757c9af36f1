"""Comparisons: YAML files that list several systems, each a change of a common config.

A comparison has the keys of a config, which all systems share, and these:

    base: demo/grammars                 # a config
    seeds: [0, 1, 2]
    reference: NoisyTopK
    tolerance: 0.01
    mixtures: {hidden_units: 48}        # keys of every mixture
    systems:
      NoisyTopK: {mixtures: {hidden_units: 32}}
      Switch: {mixtures: {hidden_units: 96, gate: {name: switch}}}

A system has the keys of a config too, and `base` and `mixtures`, which override the common ones.
"""

import copy
import difflib
import os
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from tfmoe.config.loader import find_base, read_file, read_with_base, validated
from tfmoe.config.model_schema import BLOCK_SECTIONS
from tfmoe.config.problems import ConfigError, Problem, format_value
from tfmoe.config.schema import Config
from tfmoe.config.shipped import find_comparison
from tfmoe.config.tree import Origins, leaves, merge, set_value

DEFAULTS: dict[str, Any] = {"seeds": [0], "reference": None, "tolerance": 0.02}
SYSTEM_KEYS = ("base", "mixtures", *Config.model_fields)
KEYS = ("systems", *DEFAULTS, *SYSTEM_KEYS)
# A system's name is also that of its folder.
NAME = re.compile(r"[^\W_][^/\\:*?\"<>|]{0,79}(?<![ .])")


class Comparison(NamedTuple):
    """A loaded comparison.

    Attributes:
        name: the name of the file without `.yaml`.
        configs: `{name of a system: Config}`, in the order of the file.
        seeds: the seeds that each system is trained with.
        reference: the system that the others are compared with.
        tolerance: the largest relative difference from the reference's operations per word.
        where: `{name of a system: "gates.yaml:12"}`.
    """

    name: str
    configs: dict[str, Config]
    seeds: list[int]
    reference: str
    tolerance: float
    where: dict[str, str]


def load_comparison(path: str | os.PathLike, overrides: Iterable[str] = ()) -> Comparison:
    """Loads and validates a comparison with the configs of all its systems.

    Args:
        path: a YAML file, or the name of a shipped comparison such as `"compare/gates"`.
        overrides: as for `load_config`; applied to all systems.

    Returns:
        A `Comparison`.

    Raises:
        ConfigError: if the comparison or the config of a system is invalid. Its text has one line
            per problem: file and line, system, full key, value, and what would be valid.
    """
    path = find_comparison(path)
    tree, lines = read_file(path, "comparison", KEYS)
    problems = list(_problems(tree))
    if problems:
        raise ConfigError(
            [Problem(_line(lines, at), ".".join(at), message) for at, message in problems]
        )
    common = {key: value for key, value in tree.items() if key in SYSTEM_KEYS}
    configs, errors = {}, dict[Problem, None]()
    for name, system in tree["systems"].items():
        layers = [_Layer(common, (), lines, path), _Layer(system, ("systems", name), lines, path)]
        try:
            configs[name] = _config(layers, list(overrides))
        except ConfigError as error:
            errors |= dict.fromkeys(error.problems)
    if errors:
        raise ConfigError(errors)
    settings = {key: tree.get(key, default) for key, default in DEFAULTS.items()}
    settings["reference"] = settings["reference"] or next(iter(configs))
    where = {name: lines["systems", name] for name in configs}
    return Comparison(path.stem, configs, where=where, **settings)


def _line(lines, path):
    """The line of a path, or of its nearest parent in the file."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, "")


def _problems(tree):
    """Yields `(path, message)` for each invalid key or value that is not part of a config."""
    yield from _unknown_keys(tree, (), KEYS)
    systems = tree.get("systems")
    if not isinstance(systems, dict) or not systems:
        got = f", got {format_value(systems)}" if "systems" in tree else ""
        yield ("systems",), f"must be a mapping {{NAME: {{…}}, …}} of at least one system{got}"
        return
    for name, system in systems.items():
        if not NAME.fullmatch(name):
            message = (
                "is also the name of a folder: begin with a letter or a digit, use no / \\ : * ? "
                '" < > |, and at most 80 characters'
            )
            yield ("systems", name), message
        if isinstance(system, dict):
            yield from _unknown_keys(system, ("systems", name), SYSTEM_KEYS)
        else:
            message = f"must be a mapping with keys such as mixtures, got {format_value(system)}"
            yield ("systems", name), message
    folded = [name.casefold() for name in systems]
    for name in systems:
        if folded.count(name.casefold()) > 1:
            yield ("systems", name), "is another system's name too, up to upper and lower case"
    yield from _invalid_settings(tree)


def _unknown_keys(tree, path, valid):
    for key in (key for key in tree if key not in valid):
        near = difflib.get_close_matches(key, valid, n=1)
        hint = f"; did you mean {near[0]}? V" if near else "; v"
        yield (*path, key), f"unknown key{hint}alid keys: {', '.join(valid)}"
    if not isinstance(tree.get("mixtures", {}), dict):
        message = "must be a mapping of keys of a mixture, such as {gate: {name: switch}}"
        yield (*path, "mixtures"), f"{message}, got {format_value(tree['mixtures'])}"


def _invalid_settings(tree):
    seeds, reference, tolerance = (tree.get(key, value) for key, value in DEFAULTS.items())
    valid = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not valid or not seeds or len(set(seeds)) < len(seeds):
        message = f"must be a list of different integers of at least 0, got {format_value(seeds)}"
        yield ("seeds",), message
    if reference is not None and reference not in tree["systems"]:
        names = ", ".join(tree["systems"])
        yield ("reference",), f"must be one of the systems {names}, got {format_value(reference)}"
    if type(tolerance) not in (int, float) or not 0 <= tolerance <= 100:
        message = (
            "must be the largest relative difference of operations, such as 0.02, got "
            f"{format_value(tolerance)}"
        )
        yield ("tolerance",), message


class _Layer(NamedTuple):
    """A part of a comparison that changes configs: the common one, or that of a system.

    Attributes:
        tree: its keys.
        path: its path in the file.
        lines: the lines of the file.
        file: the path of the file.
    """

    tree: dict
    path: tuple
    lines: dict
    file: Any

    def where(self, *path):
        """`{path below path: line}` for all keys at and below a path in the layer."""
        start = (*self.path, *path)
        system = f" (system {self.path[1]})" if self.path else ""
        return {
            key[len(start) :]: f"{line}{system}"
            for key, line in self.lines.items()
            if key[: len(start)] == start
        }


def _config(layers, overrides):
    """The `Config` of a system: the base, changed by the layers in order, and then by `--set`."""
    origins, tree = Origins(), {}
    for layer in reversed(layers):
        if "base" in layer.tree:
            line = layer.where("base")[()]
            tree = read_with_base(find_base(layer.tree["base"], layer.file, line), origins)
            break
    for layer in layers:
        changes = {key: layer.tree[key] for key in Config.model_fields if key in layer.tree}
        changes = copy.deepcopy(changes)  # the tree of a config is changed in place
        where = {path: line for path, line in layer.where().items() if path and path[0] in changes}
        origins.add(where, leaves(changes))
        tree = merge(tree, changes, Config)
    mixtures = {key: layer for layer in layers for key in layer.tree.get("mixtures", {})}
    for key, layer in mixtures.items():
        where = layer.where("mixtures", key)
        targets = [(*block, key) for block in _mixtures(tree)]
        if not targets and layer.path:  # the common ones are for systems with mixtures
            message = "is given, but the model has no mixture"
            raise ConfigError([Problem(where[()], f"mixtures.{key}", message)])
        for target in targets:
            set_value(tree, target, copy.deepcopy(layer.tree["mixtures"][key]), Config)
            origins.add({(*target, *path): line for path, line in where.items()}, [target])
    return validated(tree, origins, overrides)


def _mixtures(tree):
    """Yields the paths of the blocks that have experts."""
    model = tree.get("model")
    for key, blocks in model.items() if isinstance(model, dict) else ():
        for index, block in enumerate(blocks if isinstance(blocks, list) else ()):
            name = block.get("name") if isinstance(block, dict) else None
            section = BLOCK_SECTIONS.get(name) if isinstance(name, str) else None
            if section is not None and "num_experts" in section.model_fields:
                yield ("model", key, index)
