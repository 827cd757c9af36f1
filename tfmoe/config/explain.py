"""Explains pydantic's validation errors: the key as a config writes it, the value, and what would
be valid.
"""

import difflib
import typing

from tfmoe.config.named import default_name, item_type, name_of, section_at, sections_of
from tfmoe.config.number_types import Expected
from tfmoe.config.problems import format_value
from tfmoe.config.sections import UNIONS, Scalar

TYPES = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
# The words for the bounds of `Field(ge=…, lt=…)`, which follow the type's words.
BOUNDS = (("ge", "of at least"), ("gt", "above"), ("le", "of at most"), ("lt", "below"))
# A larger bound is named only if the value exceeds it.
LARGE_BOUND = 1000


def explain(error, root, tree):
    """Explains one of pydantic's errors.

    Args:
        error: an item of `pydantic.ValidationError.errors()`.
        root: the `Section` class that was validated.
        tree: the value that was validated.

    Returns:
        `(path, message)`: such as `("model", "blocks", 1, "gate", "kk")` and a message that does
        not repeat the key.
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
    if kind in ("less_than_equal", "greater_than_equal") and is_large(*limits.values()):
        bound = "at most" if "le" in limits else "at least"
        return path, f"must be {bound} {next(iter(limits.values()))}, got {format_value(value)}"
    if not isinstance(value, dict) or not field.sections:
        near = difflib.get_close_matches(str(value), field.choices, n=1)
        hint = f"; did you mean {near[0]}?" if near and isinstance(value, str) else ""
        return path, f"must be {field.expected}, got {format_value(value)}{hint}"
    if kind.startswith("union_tag"):
        names = list(dict.fromkeys(map(name_of, field.sections)))
        choices = ", ".join(names)
        if "name" not in value:
            return (*path, "name"), f"is missing; it must be one of {choices}"
        near = difflib.get_close_matches(str(value["name"]), names, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        name = format_value(value["name"])
        return (*path, "name"), f"must be one of {choices}, got {name}{hint}"
    return path, f"{error['msg']}, got {format_value(value)}"


class _Field(typing.NamedTuple):
    """What is valid at a path.

    Attributes:
        expected: in words.
        sections: the `Section` classes that are valid there.
        choices: the valid texts, of a `Literal`.
        siblings: the `Section` classes among which the one around the path was chosen.
    """

    expected: str
    sections: tuple
    choices: tuple
    siblings: tuple


def _field(annotation, metadata=(), siblings=()):
    return _Field(
        expected(annotation, metadata), sections_of(annotation), _choices(annotation), siblings
    )


def _locate(location, root, tree):
    """Follows pydantic's location. Beside keys and indices it contains names of sections and
    members of unions.

    Returns:
        `(path, field, section, value)`: keys and indices only; the `_Field` there; the `Section`
        class around it; the value there.
    """
    annotation, metadata, value = root, (), tree
    section, siblings, path = None, (), ()
    remaining = list(location)
    while remaining:
        sections = sections_of(annotation)
        if not sections and _is_union(annotation):
            index = _first_item_not_text(annotation, value)
            if index is not None:
                annotation, path, value = str, (*path, index), value[index]
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
    """Whether a type is a union of at least two types other than null."""
    members = set(typing.get_args(annotation)) - {type(None)}
    return typing.get_origin(annotation) in UNIONS and len(members) > 1


def _first_item_not_text(annotation, value):
    """The index of the first item that is not text, in a list for a union with `list[str]`; `None`
    if there is none.
    """
    if not isinstance(value, list) or list[str] not in typing.get_args(annotation):
        return None
    return next((index for index, item in enumerate(value) if not isinstance(item, str)), None)


def _unknown_key(key, value, siblings, section):
    keys = list(section.model_fields)
    near = difflib.get_close_matches(str(key), keys, n=1, cutoff=0.5)
    others = [
        name_of(other)
        for other in siblings
        if key in other.model_fields and name_of(other) != name_of(section)
    ]
    others = list(dict.fromkeys(others))
    message = f"unknown key (its value is {format_value(value)})"
    if others:
        return f"{message}; it belongs to name: {' or '.join(others)}, not {name_of(section)}"
    hint = f"; did you mean {near[0]}? V" if near else "; v"
    return f"{message}{hint}alid keys: {', '.join(keys)}"


def expected(annotation, metadata=()):
    """What is valid for a type, in words: `"an integer of at least 1, or null"`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    sections = sections_of(annotation)
    text = next((item.text for item in metadata if isinstance(item, Expected)), None)
    if text is not None:
        return text
    if origin is typing.Annotated and not sections:
        return expected(arguments[0], [*arguments[1:], *metadata])
    if sections:
        if len(sections) == 1:
            return f"a mapping with the keys {', '.join(sections[0].model_fields)}"
        names = ", ".join(dict.fromkeys(map(name_of, sections)))
        example = default_name([annotation, *metadata]) or name_of(sections[0])
        return f"a mapping such as {{name: {example}, …}}, where name is one of {names}"
    if origin is typing.Literal:
        return " or ".join(arguments) if len(arguments) < 3 else f"one of {', '.join(arguments)}"
    if origin is list:
        if any(getattr(item, "min_length", 0) for item in metadata):
            return "a list of at least one item"
        return "a list of text" if arguments == (str,) else "a list"
    if annotation == Scalar:
        return "a number, text, true, false or null"
    if arguments:
        null_type = type(None)
        options = [expected(option, metadata) for option in arguments if option is not null_type]
        null = ["null"] if null_type in arguments else []
        return ", or ".join([" or ".join(options), *null])
    bounds = [
        f"{words} {getattr(item, name)}"
        for item in _flat(metadata)
        for name, words in BOUNDS
        if getattr(item, name, None) is not None
        and (name == "lt" or not is_large(getattr(item, name)))
    ]
    return " ".join([TYPES.get(annotation, "a value"), " and ".join(bounds)]).strip()


def is_large(bound):
    """Whether a bound is a technical limit, named only if the value exceeds it."""
    return abs(bound) >= LARGE_BOUND


def _flat(metadata):
    """The constraints in a field's metadata. `Field(ge=1)` holds a list of them."""
    for item in metadata:
        yield from getattr(item, "metadata", None) or [item]


def _choices(annotation):
    if typing.get_origin(annotation) is typing.Literal:
        return typing.get_args(annotation)
    return sum(map(_choices, typing.get_args(annotation)), ())
