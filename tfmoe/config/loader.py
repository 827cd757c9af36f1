"""From a YAML file to a validated `Config`, and back."""

import pathlib

import pydantic

from tfmoe.config import yaml_text
from tfmoe.config.combinations import combination_problems
from tfmoe.config.explain import explain
from tfmoe.config.problems import MOST_PROBLEMS, ConfigError, Problem, key_of, shortened, shown
from tfmoe.config.renamed import new_path, with_new_names
from tfmoe.config.schema import Config
from tfmoe.config.shipped import find_config, kind_of
from tfmoe.config.tree import Origins, leaves, merge, parse_key, set_value


def load_config(path, overrides=()):
    """Reads a config.

    A file may name another one to start from, `base: other.yaml`, by a path from its own directory;
    that one has no base of its own. Mappings are merged key by key, lists are replaced.

    Args:
        path: a YAML file, or the name of a shipped config such as `"lm1b/moe-256"`.
        overrides: strings `"model.d_model=64"`, values in YAML, in order; items of lists as
            `model.blocks[1].units=64`.

    Returns:
        `tfmoe.config.schema.Config`.

    Raises:
        ConfigError: with all that is wrong, one line for each: file and line, full key, value, what
            would be right.
    """
    origins = Origins()
    tree = _read_with_base(find_config(path), origins)
    tree = _override(tree, overrides, origins)
    return _validate(tree, origins)


def dump_config(config):
    """A config as YAML with every default written out. `load_config` reads it back as it was.

    Args:
        config: a `Config`.

    Returns:
        A string.
    """
    return yaml_text.dump(config.model_dump())


def _read_with_base(path, origins):
    tree, places = _read(path)
    if "base" not in tree:
        origins.add(places, ())
        return tree
    base = tree.pop("base")
    where = places[("base",)]
    if not isinstance(base, str):
        message = (
            f"must be the path of another config, from this file's directory, got {shown(base)}"
        )
        raise ConfigError([Problem(where, "base", message)])
    base_path = pathlib.Path(path).parent / base
    if kind_of(base_path) != "file":
        raise ConfigError([Problem(where, "base", f"there is no file {base_path}")])
    base_tree, base_places = _read(base_path)
    if "base" in base_tree:
        message = f"{base_path} has a base itself; only one level is allowed"
        raise ConfigError([Problem(where, "base", message)])
    origins.add(base_places, ())
    origins.add(places, leaves(tree))
    return merge(base_tree, tree, Config)


def _read(path):
    try:
        with open(path, "rb") as file:
            text = file.read(yaml_text.MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError([Problem(str(path), "", f"cannot be read: {error.strerror}")]) from error
    tree, lines = yaml_text.parse(text, str(path))
    if not isinstance(tree, dict):
        found = "is empty" if tree is None else f"holds {shown(tree)}"
        message = f"{found}; a config is a mapping with the keys {', '.join(Config.model_fields)}"
        raise ConfigError([Problem(str(path), "", message)])
    return with_new_names(tree, {inner: f"{path}:{line}" for inner, line in lines.items()})


def _override(tree, overrides, origins):
    problems, already_set = [], []
    for override in overrides:
        name = f"--set {shortened(override, 200)}"
        try:
            key, equals, text = override.partition("=")
            if not equals:
                raise ValueError("must be key=value, such as model.d_model=64")
            path = new_path(parse_key(key.strip()))
            value, lines = _value(text, name, path)
            where = {(*path, *inner): name for inner in lines}
            value, where = with_new_names(value, where, path)
            made = set_value(tree, path, value, Config, already_set)
        except ConfigError as error:
            problems += [Problem(name, each.key, each.message) for each in error.problems]
        except ValueError as error:
            problems.append(Problem(name, "", str(error)))
        else:
            already_set.append(path)
            origins.add({**dict.fromkeys([*made, path], name), **where}, [path])
    if problems:
        raise ConfigError(problems)
    return tree


def _value(text, name, path):
    """What a `--set` gives to the key at a path: its tree, and the lines of it."""
    if text.startswith("*"):  # a glob; YAML would take it for an alias
        text = yaml_text.quoted(text)
    try:
        return yaml_text.parse(text, name)
    except ConfigError as error:
        problems = []
        for each in error.problems:
            key = f"{key_of(path)}{'' if each.key[:1] in ('', '[') else '.'}{each.key}"
            problems.append(Problem("", key, each.message))
        raise ConfigError(problems) from error


def _validate(tree, origins):
    found, config = [], None
    try:
        config = Config.model_validate(tree)
    except pydantic.ValidationError as error:
        found = _explained(error.errors(include_url=False, include_input=False), tree)
    found += combination_problems(tree)
    if found:
        raise ConfigError(
            [Problem(origins.where(path), key_of(path), message) for path, message in found]
        )
    return config


def _explained(errors, tree):
    """What pydantic's errors mean: list of `(path, message)`, of more than can be shown only the
    first ones.
    """
    found = {}  # of a union pydantic reports every member
    for error in errors:
        found[explain(error, Config, tree)] = None
        if len(found) > MOST_PROBLEMS:
            break
    return list(found)
