"""Loads a YAML file as a validated `Config`, and dumps a `Config` as YAML."""

import os
import pathlib
from collections.abc import Iterable

import pydantic

from tfmoe.config import yaml_text
from tfmoe.config.combinations import combination_problems
from tfmoe.config.explain import explain
from tfmoe.config.problems import (
    MAX_PROBLEMS,
    ConfigError,
    Problem,
    format_value,
    key_of,
    shorten,
)
from tfmoe.config.renamed import new_path, with_new_names
from tfmoe.config.schema import Config
from tfmoe.config.shipped import find_config, is_shipped
from tfmoe.config.tree import Origins, leaves, merge, parse_key, set_value


def load_config(path: str | os.PathLike, overrides: Iterable[str] = ()) -> Config:
    """Loads and validates a config.

    A file may extend another one: `base: other.yaml`, a path relative to the file, or
    `base: demo/language_model`, the name of a shipped config. Mappings are merged key by key, lists
    are replaced. Of the bases, only a shipped config may have a base itself.

    Args:
        path: a YAML file, or the name of a shipped config such as `"lm1b/moe-256"`.
        overrides: strings such as `"model.d_model=64"` or `"model.blocks[1].units=64"`, applied in
            order. Values are YAML.

    Returns:
        `tfmoe.config.Config`.

    Raises:
        ConfigError: if the config is invalid. Its text has one line per problem: file and line,
            full key, value, and what would be valid.
    """
    origins = Origins()
    return validated(read_with_base(find_config(path), origins), origins, overrides)


def validated(tree: dict, origins: Origins, overrides: Iterable[str] = ()) -> Config:
    """Applies overrides to a tree, and validates it.

    Args:
        tree: that of a config; changed in place.
        origins: the `Origins` of its values.
        overrides: as for `load_config`.

    Raises:
        ConfigError: as for `load_config`.
    """
    return _validate(_override(tree, overrides, origins), origins)


def dump_config(config: Config) -> str:
    """Dumps a config as YAML, with all defaults. `load_config` restores an equal config.

    Args:
        config: a `Config`.

    Returns:
        YAML text.
    """
    return yaml_text.dump(config.model_dump())


def read_with_base(path: os.PathLike, origins: Origins, named_at: tuple[str, ...] = ()) -> dict:
    """Reads the tree of a file, merged with that of its base.

    Args:
        path: of the file.
        origins: the `Origins` to add to.
        named_at: the lines whose `base` led here, `("my.yaml:1",)`; empty for the config itself.

    Raises:
        ConfigError: if a file is not valid YAML, or a base cannot be used.
    """
    tree, lines = read_file(path)
    if "base" not in tree:
        origins.add(lines, ())
        return tree
    if len(named_at) > 1 or (named_at and not is_shipped(path)):
        message = f"{path} has a base itself; only one level is allowed"
        raise ConfigError([Problem(named_at[-1], "base", message)])
    line = lines[("base",)]
    base_path = find_base(tree.pop("base"), path, line)
    base_tree = read_with_base(base_path, origins, (*named_at, line))
    origins.add(lines, leaves(tree))
    return merge(base_tree, tree, Config)


def find_base(base: object, path: str | os.PathLike, line: str) -> pathlib.Path:
    """Finds the file that a `base` names.

    Args:
        base: the value of `base`.
        path: the file with this `base`.
        line: its line, `"my.yaml:1"`, for errors.

    Raises:
        ConfigError: if it is no text, or there is no such file.
    """
    if not isinstance(base, str):
        message = (
            "must be the path of a config, relative to this file, or the name of a shipped config, "
            f"got {format_value(base)}"
        )
        raise ConfigError([Problem(line, "base", message)])
    try:
        return find_config(base, directory=pathlib.Path(path).parent)
    except ConfigError as error:
        messages = (f"{base}: {problem.message}" for problem in error.problems)
        raise ConfigError([Problem(line, "base", message) for message in messages]) from error


def read_file(
    path: str | os.PathLike, kind: str = "config", keys: Iterable[str] = tuple(Config.model_fields)
) -> tuple[dict, dict]:
    """Reads the tree of a file, and its lines: `(tree, {path in the tree: "demo.yaml:7"})`.

    Args:
        path: of the file.
        kind, keys: what the file is and which keys it can have, for errors.

    Raises:
        ConfigError: if the file cannot be read, is not valid YAML, or contains no mapping.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(yaml_text.MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError([Problem(str(path), "", f"cannot be read: {error.strerror}")]) from error
    tree, lines = yaml_text.parse(text, str(path))
    if not isinstance(tree, dict):
        content = "is empty" if tree is None else f"contains {format_value(tree)}"
        message = f"{content}; a {kind} is a mapping with the keys {', '.join(keys)}"
        raise ConfigError([Problem(str(path), "", message)])
    if "systems" in tree and "systems" not in keys:
        message = f"is a comparison, not a config: `tfmoe compare {path}` trains its systems"
        raise ConfigError([Problem(str(path), "", message)])
    return with_new_names(tree, {key: f"{path}:{line}" for key, line in lines.items()})


def _override(tree, overrides, origins):
    problems, already_set = [], []
    for override in overrides:
        name = f"--set {shorten(override, 200)}"
        try:
            key, equals, text = override.partition("=")
            if not equals:
                raise ValueError("must be key=value, such as model.d_model=64")
            path = new_path(parse_key(key.strip()))
            value, lines = _value(text, name, path)
            where = {(*path, *subpath): name for subpath in lines}
            value, where = with_new_names(value, where, path)
            created = set_value(tree, path, value, Config, already_set)
        except ConfigError as error:
            problems += [Problem(name, problem.key, problem.message) for problem in error.problems]
        except ValueError as error:
            problems.append(Problem(name, "", str(error)))
        else:
            already_set.append(path)
            origins.add({**dict.fromkeys([*created, path], name), **where}, [path])
    if problems:
        raise ConfigError(problems)
    return tree


def _value(text, name, path):
    """The tree of the value in a `--set`, and its lines."""
    if text.startswith("*"):  # a glob, which YAML would read as an alias
        text = yaml_text.quoted(text)
    try:
        return yaml_text.parse(text, name)
    except ConfigError as error:
        problems = []
        for problem in error.problems:
            separator = "" if problem.key[:1] in ("", "[") else "."
            key = f"{key_of(path)}{separator}{problem.key}"
            problems.append(Problem("", key, problem.message))
        raise ConfigError(problems) from error


def _validate(tree, origins):
    problems, config = [], None
    try:
        config = Config.model_validate(tree)
    except pydantic.ValidationError as error:
        problems = _explained(error.errors(include_url=False, include_input=False), tree)
    problems += combination_problems(tree)
    if problems:
        raise ConfigError(
            [Problem(origins.where(path), key_of(path), message) for path, message in problems]
        )
    return config


def _explained(errors, tree):
    """Explains pydantic's errors, the first ones only if there are more than a message shows.

    Returns:
        List of `(path, message)`.
    """
    problems = {}  # a dictionary: pydantic reports every member of a union
    for error in errors:
        problems[explain(error, Config, tree)] = None
        if len(problems) > MAX_PROBLEMS:
            break
    return list(problems)
