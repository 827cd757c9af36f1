"""Says in plain words what pydantic found wrong: the key as it is written, the value, and what
would be right.
"""

import difflib
import typing

from tfmoe.config.named import default_name, item_type, name_of, section_at, sections_of
from tfmoe.config.number_types import Words
from tfmoe.config.problems import shown
from tfmoe.config.sections import UNIONS, Scalar

TYPES = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
# Suffixes of a sentence for the metadata that pydantic keeps of Field(ge=…, lt=…).
BOUNDS = (("ge", "of at least"), ("gt", "above"), ("le", "of at most"), ("lt", "below"))
# A bound as far from 0 as this is named only where a value is past it.
FAR = 1000


def explain(error, root, tree):
    """What one of pydantic's errors means.

    Args:
        error: an item of `pydantic.ValidationError.errors()`.
        root: the `Section` class that was validated.
        tree: what was validated.

    Returns:
        `(path, message)`: `("model", "blocks", 1, "gate", "kk")` and a sentence without it.
    """
    path, field, section, value = _locate(error["loc"], root, tree)
    kind = error["type"]
    if kind == "extra_forbidden":
        return path, _unknown_key(path[-1], value, field.siblings, section)
    if kind == "missing":
        return path, f"is missing; it must be {field.expected}"
    if kind == "too_long":
        return path, f"must have at most {error['ctx']['max_length']} items, got {len(value)}"
    limits = error.get("ctx", {})
    if kind in ("less_than_equal", "greater_than_equal") and is_far(*limits.values()):
        least_or_most = "at most" if "le" in limits else "at least"
        return path, f"must be {least_or_most} {next(iter(limits.values()))}, got {shown(value)}"
    if not isinstance(value, dict) or not field.sections:
        near = difflib.get_close_matches(str(value), field.choices, n=1)
        hint = f"; did you mean {near[0]}?" if near and isinstance(value, str) else ""
        return path, f"must be {field.expected}, got {shown(value)}{hint}"
    if kind.startswith("union_tag"):
        names = list(map(name_of, field.sections))
        listed = ", ".join(names)
        if "name" not in value:
            return (*path, "name"), f"is missing; it must be one of {listed}"
        near = difflib.get_close_matches(str(value["name"]), names, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return (*path, "name"), f"must be one of {listed}, got {shown(value['name'])}{hint}"
    return path, f"{error['msg']}, got {shown(value)}"


class _Field(typing.NamedTuple):
    """What belongs at a place."""

    expected: str
    sections: tuple
    choices: tuple
    siblings: tuple  # sections that could have stood around it


def _field(annotation, metadata=(), siblings=()):
    return _Field(
        expected(annotation, metadata), sections_of(annotation), _choices(annotation), siblings
    )


def _locate(location, root, tree):
    """Follows pydantic's location, which also holds the names of chosen sections, and what it tried
    of a union.

    Returns:
        `(path, field, section, value)`: the keys and indices alone; the `_Field` there; the
        `Section` class around it; the value there.
    """
    annotation, metadata, value = root, (), tree
    section, siblings, path = None, (), ()
    remaining = list(location)
    while remaining:
        sections = sections_of(annotation)
        if not sections and _is_union(annotation):
            break
        if isinstance(value, dict) and sections:
            section, siblings = section_at(annotation, value, metadata), sections
            if len(sections) > 1:
                remaining.pop(0)  # the section's name
                if not remaining:
                    break
        step = remaining.pop(0)
        path = (*path, step)
        if isinstance(value, list):
            annotation, metadata = item_type(annotation), ()
            value = value[step] if isinstance(step, int) and step < len(value) else None
        elif section is not None and step in section.model_fields:
            info = section.model_fields[step]
            annotation, metadata = info.annotation, info.metadata
            value = value.get(step) if isinstance(value, dict) else None
        else:
            value = value.get(step) if isinstance(value, dict) else None
            annotation, metadata = object, ()
    return path, _field(annotation, metadata, siblings), section, value


def _is_union(annotation):
    """Whether a type is a union of more than one type and null."""
    members = set(typing.get_args(annotation)) - {type(None)}
    return typing.get_origin(annotation) in UNIONS and len(members) > 1


def _unknown_key(key, value, siblings, section):
    keys = list(section.model_fields)
    near = difflib.get_close_matches(str(key), keys, n=1, cutoff=0.5)
    others = [
        name_of(other) for other in siblings if other is not section and key in other.model_fields
    ]
    message = f"unknown key (its value is {shown(value)})"
    if others:
        return f"{message}; it belongs to name: {' or '.join(others)}, not {name_of(section)}"
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{message}{hint}{' The' if near else '; the'} keys here are {', '.join(keys)}"


def expected(annotation, metadata=()):
    """What a field of a type wants, in words: `"an integer of at least 1, or null"`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    sections = sections_of(annotation)
    words = next((item.words for item in metadata if isinstance(item, Words)), None)
    if words is not None:
        return words
    if origin is typing.Annotated and not sections:
        return expected(arguments[0], [*arguments[1:], *metadata])
    if sections:
        if len(sections) == 1:
            return f"a mapping with the keys {', '.join(sections[0].model_fields)}"
        named = ", ".join(map(name_of, sections))
        fallback = default_name([annotation, *metadata]) or name_of(sections[0])
        return f"a mapping such as {{name: {fallback}, …}}, with the name one of {named}"
    if origin is typing.Literal:
        return " or ".join(arguments) if len(arguments) < 3 else f"one of {', '.join(arguments)}"
    if origin is list:
        some = any(getattr(item, "min_length", 0) for item in metadata)
        text = " of text" if arguments == (str,) else ""
        return f"a list{' of at least one item' if some else text}"
    if annotation == Scalar:
        return "a number, text, true, false or null"
    if arguments:
        empty = type(None)
        options = [expected(option, metadata) for option in arguments if option is not empty]
        null = ["null"] if empty in arguments else []
        return ", or ".join([" or ".join(options), *null])
    bounds = [
        f"{words} {getattr(item, name)}"
        for item in _flat(metadata)
        for name, words in BOUNDS
        if getattr(item, name, None) is not None
        and (name == "lt" or not is_far(getattr(item, name)))
    ]
    return " ".join([TYPES.get(annotation, "a value"), " and ".join(bounds)]).strip()


def is_far(bound):
    """Whether a bound is so far from 0 that it is no part of what a number means."""
    return abs(bound) >= FAR


def _flat(metadata):
    """The constraints in a field's metadata; `Field(ge=1)` itself holds a list of them."""
    for item in metadata:
        yield from getattr(item, "metadata", None) or [item]


def _choices(annotation):
    if typing.get_origin(annotation) is typing.Literal:
        return typing.get_args(annotation)
    found = ()
    for argument in typing.get_args(annotation):
        found += _choices(argument)
    return found
