"""All keys of a config, with type, default and meaning, from the schema and the docstrings of the
constructors that its sections are made from.
"""

import difflib
import inspect
import json
import re
import textwrap
import typing
from typing import NamedTuple

from tfmoe.config.docstrings import arguments_in, summary_of, without_types
from tfmoe.config.explain import expected
from tfmoe.config.named import Section, item_type, name_of, sections_of
from tfmoe.config.schema import Config

WIDTH = 100  # of the text for a terminal
# Arguments that the docstrings of some Keras optimizers leave out.
UNDOCUMENTED = {"weight_decay": "factor of the weight decay; null for none."}


class Key(NamedTuple):
    """One key of a section.

    Attributes:
        key: name within the section.
        type: what a value must be, in words.
        required: whether a config must give it.
        default: value where a config does not give it; a dictionary for a section.
        choices: the names of the sections, or the texts, to choose from; often empty.
        meaning: one or more sentences.
    """

    key: str
    type: str
    required: bool
    default: object
    choices: tuple
    meaning: str


class KeySection(NamedTuple):
    """The keys of one `Section` class.

    Attributes:
        paths: where a config can have the section, `model.blocks[].gate`; "" for the whole config.
        name: value of its key `name`; `None` for a section without.
        summary: what the section stands for.
        keys: list of `Key`, without `name`.
    """

    paths: tuple
    name: str | None
    summary: str
    keys: tuple


def config_keys(query=None):
    """Lists the keys of a config.

    Args:
        query: `None` for all; a path such as `training.optimizer` or `model.blocks[1].gate.k` for
            the keys at and below it; or a single word: the name of a section (`noisy_top_k`) for
            its keys, or of a key (`importance_weight`) for that key wherever it occurs.

    Returns:
        List of `KeySection`, each with the keys asked for.

    Raises:
        ValueError: if no key is called so.
    """
    sections = all_sections()
    if query is None:
        return sections
    selected = [part for part in (_selected(section, query) for section in sections) if part.keys]
    if not selected:
        near = difflib.get_close_matches(query, _words(sections), n=1)
        hint = f"; did you mean {near[0]}?" if near else "; tfmoe configs --keys lists all keys"
        raise ValueError(f"{query} is no key, section or name of a config{hint}")
    return selected


def all_sections():
    """Returns a `KeySection` for each `Section` class that a config can have, in order."""
    paths = {}
    _add_paths(paths, Config, "")
    return [_key_section(section, tuple(places)) for section, places in paths.items()]


def _add_paths(paths, section, path):
    if path in paths.setdefault(section, []):
        return
    paths[section].append(path)
    for key, info in section.model_fields.items():
        below = f"{path}.{key}" if path else key
        for inner in sections_of(info.annotation):
            _add_paths(paths, inner, below)
        for inner in sections_of(item_type(info.annotation)):
            _add_paths(paths, inner, f"{below}[]")


def _key_section(section, paths):
    name = name_of(section) if "name" in section.model_fields else None
    meanings = meanings_of(section)
    keys = [
        Key(
            key,
            expected(info.annotation, info.metadata),
            info.is_required(),
            None if info.is_required() else _plain(info.get_default(call_default_factory=True)),
            choices_of(info.annotation),
            meanings.get(key, ""),
        )
        for key, info in section.model_fields.items()
        if key != "name"
    ]
    return KeySection(paths, name, summary_of(section.__doc__), tuple(keys))


def meanings_of(section):
    """Returns `{key: meaning}` of a `Section` class: what its docstring says, and the docstrings of
    the classes that its constructor inherits from.
    """
    constructor = section.made_from.constructor if section.made_from else section
    classes = inspect.getmro(constructor) if isinstance(constructor, type) else [constructor]
    meanings = {}
    for cls in [section, *classes]:
        module = (constructor if cls is section else cls).__module__
        is_of_keras = module.startswith("keras.")
        for name, text in arguments_in(cls.__doc__).items():
            meanings.setdefault(name, without_types(text) if is_of_keras else text)
    return UNDOCUMENTED | meanings


def choices_of(annotation):
    """Returns the names of the sections that a field's type allows, or the texts of a `Literal`."""
    sections = sections_of(annotation) or sections_of(item_type(annotation))
    if sections:
        return tuple(name_of(section) for section in sections if "name" in section.model_fields)
    if typing.get_origin(annotation) is typing.Literal:
        return typing.get_args(annotation)
    return tuple(text for part in typing.get_args(annotation) for text in choices_of(part))


def _plain(value):
    """A default as JSON has it."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.model_dump(mode="json") if isinstance(value, Section) else value


def _selected(section, query):
    """The section with those of its keys that `query` selects."""
    query = re.sub(r"\[\d*\]|\.\d+(?=\.|$)", "", query)
    is_word = "." not in query
    if is_word and section.name == query:
        return section
    pairs = []
    for path in section.paths:
        bare = path.replace("[]", "")
        for key in section.keys:
            full = f"{bare}.{key.key}" if bare else key.key
            if f"{full}.".startswith(f"{query}.") or (is_word and key.key == query):
                pairs.append((path, key))
    paths = {path for path, _ in pairs}
    keys = {key.key for _, key in pairs}
    return section._replace(
        paths=tuple(path for path in section.paths if path in paths),
        keys=tuple(key for key in section.keys if key.key in keys),
    )


def _words(sections):
    """Everything that `config_keys` can be asked for."""
    for section in sections:
        yield from [section.name] if section.name else []
        for key in section.keys:
            yield key.key
            yield from (f"{path}.{key.key}".replace("[]", "").lstrip(".") for path in section.paths)


def keys_as_json(sections):
    """Returns a list of dictionaries, one for each key at each of its paths."""
    return [
        {"key": f"{path}.{key.key}".lstrip("."), "name": section.name, **key._asdict()}
        | {"key": f"{path}.{key.key}".lstrip(".")}
        for section in sections
        for path in section.paths
        for key in section.keys
    ]


def keys_text(sections):
    """Returns the keys as text for a terminal."""
    return "\n\n".join(map(_section_text, sections))


def title_of(section):
    """Returns the heading of a section: its paths, and its name in parentheses."""
    paths = ", ".join(section.paths) or "a config"
    return f"{paths} (name: {section.name})" if section.name else paths


def default_text(key):
    """Returns the default of a key as YAML has it, or "required"."""
    if key.required:
        return "required"
    value = key.default
    if isinstance(value, dict):
        return f"{{name: {value['name']}}}" if "name" in value else "{}"
    if isinstance(value, str):
        return value
    return json.dumps(value)


def _section_text(section):
    lines = [title_of(section), *_wrapped(section.summary, "  ")]
    for key in section.keys:
        lines += ["", *_wrapped(f"{key.key}: {default_text(key)}  # {key.type}", "  ")]
        lines += _wrapped(key.meaning, "      ")
    return "\n".join(lines)


def _wrapped(text, indent):
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=f"{indent}    "[:6])
