"""Sections made from constructors: a key for every argument. `construct` turns a section into an
object.

A registered class (a gate, block, optimizer, schedule or corpus) needs no schema class. The
constructor's docstring documents the keys. The schema checks types, and the ranges that `fields`
gives; the constructor checks combinations, with ValueErrors that begin with the argument's name.
"""

import dataclasses
import functools
import inspect
import re
import textwrap
import types
import typing

import pydantic

from tfmoe.config.docstrings import arguments_in
from tfmoe.config.named import Section
from tfmoe.config.number_types import Float, Integer
from tfmoe.config.problems import key_of

Scalar = int | float | str | bool | None
PLAIN = (int, float, str, bool, type(None))
UNIONS = (typing.Union, types.UnionType)
# Keras prepends this to the message of an error in a constructor that it called.
KERAS_PREFIX = "Exception encountered: "
# The argument's name at the beginning of a message.
ARGUMENT = re.compile(r"(?:Argument )?`?(\w*)`?((?:\[\d+\])*)\s*(.*)")


class MadeFrom(typing.NamedTuple):
    """The constructor that a section was made from.

    Attributes:
        constructor: a class or a function.
        arguments: the keys that are arguments of the constructor.
        as_tuple: the keys of lists that the constructor takes as tuples.
    """

    constructor: typing.Callable
    arguments: tuple
    as_tuple: frozenset


class SectionError(ValueError):
    """Errors of constructors, with the keys of the arguments.

    Args:
        problems: list of `(path, message)`: the path below the section, `("gate", "k")`, empty if
            the message names no argument; the message without the argument's name.
    """

    def __init__(self, problems):
        self.problems = [(tuple(path), message) for path, message in problems]
        lines = (f"{key_of(path)} {message}".strip() for path, message in self.problems)
        super().__init__("\n".join(lines))

    def under(self, *path):
        """The problems with `path` prepended to their paths."""
        return [((*path, *subpath), message) for subpath, message in self.problems]


def section_of(
    constructor, name=None, *, leave_out=(), fields=None, more=None, doc=None, base=None
):
    """Makes the `Section` class of a constructor: a field for every argument, with its default.

    `**kwargs` are followed to the base classes. The type of a field is the argument's annotation,
    else the type of its default; an argument without annotation, and with the default `None` or no
    default, takes any scalar. A dataclass becomes a section, `list[…]` and `tuple[…, ...]` become a
    list; a list of text may be written as a single text. Members of a union that YAML cannot
    express are dropped. An argument that YAML cannot express is left out if it has a default.

    Args:
        constructor: a class or a function.
        name: the section's `name` in a config; `None` for a section without a name.
        leave_out: arguments that are no keys, because `construct` gets them from its caller. An
            argument `name` is always left out.
        fields: `{argument: type}` or `{argument: (type, default)}`, to override annotation and
            default. Arguments that the constructor does not have are ignored.
        more: `{key: (type, default, meaning)}`, keys that are not arguments of the constructor.
        doc: docstring of the section; `None` for the constructor's. The keys of `more` are added.
        base: a class whose arguments are no keys: `**kwargs` are followed up to it.

    Raises:
        TypeError: for an argument without a default that YAML cannot express.
    """
    arguments, as_tuple, fields = {}, set(), fields or {}
    for argument, (annotation, default) in arguments_of(constructor, base).items():
        if argument == "name" or argument in leave_out:
            continue
        if argument.startswith("_") or hasattr(Section, argument):
            raise TypeError(
                f"{constructor.__name__}: {argument} cannot be a key of a config: it begins with _ "
                "or is an attribute of all sections; rename the argument"
            )
        if argument in fields:
            field = fields[argument]
            arguments[argument] = field if type(field) is tuple else (field, default)
            continue
        kind = field_type(annotation)
        if kind is None:
            if default is ...:
                raise TypeError(
                    f"{constructor.__name__}: a config cannot express {argument}, of type "
                    f"{annotation}"
                )
            continue
        arguments[argument] = (kind, _default(default))
        if tuple in map(typing.get_origin, (annotation, *typing.get_args(annotation))):
            as_tuple.add(argument)
    more = more or {}
    section = pydantic.create_model(
        f"{constructor.__name__}Section",
        __base__=Section,
        __doc__=_docstring(doc or constructor.__doc__ or "", arguments, constructor, more),
        __validators__=_validators(constructor),
        **({} if name is None else {"name": (typing.Literal[name], name)}),
        **arguments,
        **{key: (kind, default) for key, (kind, default, _) in more.items()},
    )
    section.made_from = MadeFrom(constructor, tuple(arguments), frozenset(as_tuple))
    return section


def _docstring(doc, arguments, constructor, more):
    """A docstring with the meanings of arguments of base classes, and of additional keys."""
    meanings = {key: meaning for key, (_, _, meaning) in more.items()}
    documented = arguments_in(doc)
    for cls in inspect.getmro(constructor) if isinstance(constructor, type) else ():
        for name, meaning in arguments_in(cls.__doc__).items():
            if name in arguments and name not in documented:
                meanings.setdefault(name, meaning)
    lines = [
        textwrap.fill(f"{key}: {meaning}", 100, initial_indent=" " * 4, subsequent_indent=" " * 8)
        for key, meaning in meanings.items()
    ]
    more_keys = "\n".join(["\n\nMore keys:", *lines, ""]) if lines else ""
    return inspect.cleandoc(doc) + more_keys


def arguments_of(constructor, base=None):
    """The arguments of a class or a function, including those that `**kwargs` hand to base classes.

    Args:
        constructor: a class or a function.
        base: a class whose arguments, and those of its bases, are left out.

    Returns:
        `{argument: (annotation, default)}`, with `...` for no default.
    """
    arguments = {}
    for function in _functions(constructor, base):
        hints = typing.get_type_hints(function, include_extras=True)
        parameters = list(inspect.signature(function).parameters.values())
        for parameter in parameters[1:] if isinstance(constructor, type) else parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            default = ... if parameter.default is parameter.empty else parameter.default
            annotation = hints.get(parameter.name, _annotation_like(default))
            arguments.setdefault(parameter.name, (annotation, default))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    if dataclasses.is_dataclass(constructor):
        for field in dataclasses.fields(constructor):
            if field.name in arguments and field.default_factory is not dataclasses.MISSING:
                arguments[field.name] = (arguments[field.name][0], field.default_factory())
    return arguments


def _functions(constructor, base):
    """A list of the function itself, or of the `__init__`s of a class and its bases, in order."""
    if not isinstance(constructor, type):
        return [constructor]
    bases = inspect.getmro(constructor)
    bases = bases[: bases.index(base)] if base in bases else bases
    return [vars(cls)["__init__"] for cls in bases if "__init__" in vars(cls) and cls is not object]


def _annotation_like(default):
    """The annotation of an argument without one, inferred from its default."""
    if default is None or default is ...:
        return Scalar
    if isinstance(default, (tuple, list)):
        return tuple[Scalar, ...] if isinstance(default, tuple) else list[Scalar]
    return type(default)


def field_type(annotation):
    """The type of a field for an annotation, or `None` if YAML cannot express it."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation == Scalar:
        return Scalar
    if annotation is None or annotation in PLAIN:
        return {int: Integer, float: Float}.get(annotation, annotation or type(None))
    if origin is typing.Literal:
        return annotation
    if origin is typing.Annotated:
        inner = field_type(parts[0])
        return None if inner is None else typing.Annotated[inner, *parts[1:]]
    if origin in UNIONS:
        return _union([kind for kind in map(field_type, parts) if kind is not None])
    if origin in (list, tuple) and parts[1:] in ((), (...,)):
        inner = field_type(parts[0])
        return None if inner is None else Texts if inner is str else list[inner]
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    if dataclasses.is_dataclass(annotation):
        return _dataclass_section(annotation)
    return None


def _union(kinds):
    """The union of types; `None` if only null is left."""
    if str in kinds:  # then a single text is not a list
        kinds = [list[str] if kind == Texts else kind for kind in kinds]
    if all(kind is type(None) for kind in kinds):
        return None
    return typing.Union[tuple(kinds)]  # noqa: UP007 (the members are only known at run time)


@functools.cache
def _dataclass_section(cls):
    return section_of(cls)


Texts = typing.Annotated[
    list[str], pydantic.BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
]


def _default(value):
    """A constructor's default as the default of a field."""
    if isinstance(value, (list, tuple)):
        return pydantic.Field(default_factory=lambda: _as_value(value))
    return _as_value(value)


def _as_value(default):
    if isinstance(default, (list, tuple)):
        return [_as_value(item) for item in default]
    if dataclasses.is_dataclass(default):
        section = _dataclass_section(type(default))
        return section(**{key: _as_value(getattr(default, key)) for key in section.model_fields})
    return default


def _validators(constructor):
    """A validator for what configs of old runs contain: it drops the arguments of `RETIRED` with
    the value 0, and calls `current_settings`, if the constructor has these.
    """
    retired = getattr(constructor, "RETIRED", ())
    current_settings = getattr(constructor, "current_settings", dict)

    def validate(values):
        if not isinstance(values, dict):
            return values
        return current_settings({k: v for k, v in values.items() if not (k in retired and v == 0)})

    has_any = retired or current_settings is not dict
    return {"current": pydantic.model_validator(mode="before")(validate)} if has_any else {}


def construct(section, constructor=None, **extra):
    """Builds the object of a section, and first those of the sections in it.

    Args:
        section: of a class that `section_of` made.
        constructor: `None` for the one that the section was made from.
        **extra: additional arguments.

    Raises:
        SectionError: if a constructor raises a ValueError or a TypeError. Each line of the message
            that begins with an argument's name becomes a problem with that key.
    """
    made_from, arguments, problems = type(section).made_from, {}, []
    for key in made_from.arguments:
        if key not in extra:
            value = _constructed(getattr(section, key), (key,), problems)
            is_tuple = key in made_from.as_tuple and isinstance(value, list)
            arguments[key] = tuple(value) if is_tuple else value
    if problems:
        raise SectionError(problems)
    try:
        return (constructor or made_from.constructor)(**arguments, **extra)
    except (ValueError, TypeError) as error:
        raise SectionError(_located(section, str(error))) from error


def _constructed(value, path, problems):
    """The object of a field's value. Adds the errors of constructors to `problems`."""
    if isinstance(value, list):
        return [_constructed(item, (*path, i), problems) for i, item in enumerate(value)]
    if not isinstance(value, Section) or type(value).made_from is None:
        return value
    try:
        return construct(value)
    except SectionError as error:
        problems += error.under(*path)


def _located(section, message):
    """Splits a constructor's error message into problems: list of `(path, message)`."""
    problems = []
    for line in message.rpartition(KERAS_PREFIX)[2].split("\n"):
        argument, indices, rest = ARGUMENT.match(line).groups()
        path = _path_of(section, argument)
        if path:
            problems.append(((*path, *map(int, re.findall(r"\d+", indices))), rest))
        elif problems:
            problems[-1] = (problems[-1][0], f"{problems[-1][1]}\n{line}")
        else:
            problems.append(((), line))
    return problems


def _path_of(section, argument):
    """The path of an argument's key, in the section or in one inside it; empty if there is none."""
    if argument in type(section).model_fields:
        return (argument,)
    for key in type(section).model_fields:
        inner = getattr(section, key)
        if isinstance(inner, Section) and argument in type(inner).model_fields:
            return (key, argument)
    return ()
