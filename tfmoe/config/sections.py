"""Sections made from constructors: a key for every argument, and the way back to an object.

What is registered (a gate, a block, an optimizer, a schedule, a corpus) needs no class here. The
meaning of a key stands in the constructor's docstring. Types refuse what a config cannot say, and,
where `fields` has one, a number out of its range; combinations are checked by the constructors,
whose ValueErrors begin with the name of the argument.
"""

import dataclasses
import inspect
import re
import types
import typing

import pydantic

from tfmoe.config.named import Section
from tfmoe.config.number_types import Integer, Number
from tfmoe.config.problems import key_of

Scalar = int | float | str | bool | None
PLAIN = (int, float, str, bool, type(None))
UNIONS = (typing.Union, types.UnionType)
# Keras puts this before the message of an error in a constructor that it called itself.
WRAPPED = "Exception encountered: "
# An argument's name, as messages begin with it.
ARGUMENT = re.compile(r"(?:Argument )?`?(\w*)`?((?:\[\d+\])*)\s*(.*)")


class MadeFrom(typing.NamedTuple):
    """What a section was made from.

    Attributes:
        constructor: a class or a function.
        arguments: the keys of the section that are arguments.
        as_tuple: those of lists that the constructor takes as tuples.
    """

    constructor: typing.Callable
    arguments: tuple
    as_tuple: frozenset


class SectionError(ValueError):
    """What constructors object to.

    Args:
        problems: list of `(path, message)`: the keys below the section, `("gate", "k")`, and the
            message without the name of the argument. A message that names none has an empty path.
    """

    def __init__(self, problems):
        self.problems = [(tuple(path), message) for path, message in problems]
        lines = (f"{key_of(path)} {message}".strip() for path, message in self.problems)
        super().__init__("\n".join(lines))

    def under(self, *path):
        """The problems with paths that begin further out."""
        return [((*path, *inner), message) for inner, message in self.problems]


def section_of(
    constructor, name=None, *, leave_out=(), fields=None, more=None, doc=None, base=None
):
    """The `Section` class of a constructor: a field for every argument, with its default.

    Its `**kwargs` are followed to the classes that it inherits from. The type of a field is the
    argument's annotation, or the type of its default; without annotation, `None` or no default
    allows any scalar. A dataclass becomes a section of its own, `list[…]` and `tuple[…, ...]` a
    list; a list of text may be a single text. Of a union the parts remain that a config can say;
    an argument with a default that a config cannot say is left out.

    Args:
        constructor: a class or a function.
        name: by which a config chooses the section, its key `name`; `None` for a section without.
        leave_out: names of arguments that `construct` gets from elsewhere. An argument `name` is
            always left out.
        fields: `{argument: type}` or `{argument: (type, default)}`, instead of the constructor's
            own. Arguments that the constructor does not have are ignored.
        more: `{key: (type, default)}`, keys that `construct` does not give to the constructor.
        doc: docstring; `None` for the constructor's.
        base: a class at which to stop following `**kwargs`; its arguments are not keys.

    Raises:
        TypeError: for an argument without a default that a config cannot say.
    """
    given, made, as_tuple = fields or {}, {}, set()
    for argument, (annotation, default) in arguments_of(constructor, base).items():
        if argument == "name" or argument in leave_out:
            continue
        if argument.startswith("_") or hasattr(Section, argument):
            raise TypeError(
                f"{constructor.__name__}: {argument} cannot be a key of a config, whose sections "
                "have an attribute of this name, or none that begins with _: rename the argument"
            )
        if argument in given:
            field = given[argument]
            made[argument] = field if type(field) is tuple else (field, default)
            continue
        kind = field_type(annotation)
        if kind is None:
            if default is ...:
                raise TypeError(
                    f"{constructor.__name__}: a config cannot say {argument}, of type {annotation}"
                )
            continue
        made[argument] = (kind, _default(default))
        if tuple in map(typing.get_origin, (annotation, *typing.get_args(annotation))):
            as_tuple.add(argument)
    retired = getattr(constructor, "RETIRED", ())
    section = pydantic.create_model(
        f"{constructor.__name__}Section",
        __base__=Section,
        __doc__=inspect.cleandoc(doc or constructor.__doc__ or ""),
        __validators__={"without_retired": _without_retired(retired)} if retired else {},
        **({} if name is None else {"name": (typing.Literal[name], name)}),
        **made,
        **(more or {}),
    )
    section.made_from = MadeFrom(constructor, tuple(made), frozenset(as_tuple))
    return section


def arguments_of(constructor, base=None):
    """The arguments of a class or a function, of a class also those that it hands on by `**kwargs`.

    Args:
        constructor: a class or a function.
        base: a class whose own arguments, and those of its bases, do not count.

    Returns:
        `{argument: (annotation, default)}`, with `...` for no default.
    """
    found = {}
    for function in _functions(constructor, base):
        hints = typing.get_type_hints(function, include_extras=True)
        parameters = list(inspect.signature(function).parameters.values())
        for parameter in parameters[1:] if isinstance(constructor, type) else parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            default = ... if parameter.default is parameter.empty else parameter.default
            annotation = hints.get(parameter.name, _annotation_like(default))
            found.setdefault(parameter.name, (annotation, default))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    if dataclasses.is_dataclass(constructor):
        for field in dataclasses.fields(constructor):
            if field.name in found and field.default_factory is not dataclasses.MISSING:
                found[field.name] = (found[field.name][0], field.default_factory())
    return found


def _functions(constructor, base):
    """The function itself, or the `__init__`s of a class and its bases, in order."""
    if not isinstance(constructor, type):
        return [constructor]
    bases = inspect.getmro(constructor)
    bases = bases[: bases.index(base)] if base in bases else bases
    return [vars(cls)["__init__"] for cls in bases if "__init__" in vars(cls) and cls is not object]


def _annotation_like(default):
    """The annotation that an argument without one is meant to have."""
    if default is None or default is ...:
        return Scalar
    if isinstance(default, (tuple, list)):
        return tuple[Scalar, ...] if isinstance(default, tuple) else list[Scalar]
    return type(default)


def field_type(annotation):
    """The type of a config's value for an annotation, or `None` if a config cannot say any."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation == Scalar:
        return Scalar
    if annotation is None or annotation in PLAIN:
        return {int: Integer, float: Number}.get(annotation, annotation or type(None))
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
        return _of_dataclass(annotation)
    return None


def _union(kinds):
    """The union of types, `None` if nothing but null is left of them."""
    if str in kinds:  # a single text stays one
        kinds = [list[str] if kind == Texts else kind for kind in kinds]
    if all(kind is type(None) for kind in kinds):
        return None
    return typing.Union[tuple(kinds)]  # noqa: UP007 (the members are only known here)


_DATACLASSES: dict[type, type] = {}  # the section of each, one for all places


def _of_dataclass(cls):
    if cls not in _DATACLASSES:
        _DATACLASSES[cls] = section_of(cls)
    return _DATACLASSES[cls]


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
        section = _of_dataclass(type(default))
        return section(**{key: _as_value(getattr(default, key)) for key in section.model_fields})
    return default


def _without_retired(retired):
    """Lets configs of old runs name arguments that had no effect, at their default of 0."""

    def validate(values):
        if not isinstance(values, dict):
            return values
        return {k: v for k, v in values.items() if not (k in retired and v == 0)}

    return pydantic.model_validator(mode="before")(validate)


def construct(section, constructor=None, **extra):
    """The object of a section; sections in it that were made from constructors become objects too.

    Args:
        section: of a class that `section_of` made.
        constructor: `None` for the one that the section was made from.
        **extra: further arguments.

    Raises:
        SectionError: where a constructor raises a ValueError or a TypeError; it has the keys. Of a
            ValueError, each line that begins with an argument's name is a problem.
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
    """The object of a field's value. What constructors object to is added to `problems`."""
    if isinstance(value, list):
        return [_constructed(item, (*path, i), problems) for i, item in enumerate(value)]
    if not isinstance(value, Section) or type(value).made_from is None:
        return value
    try:
        return construct(value)
    except SectionError as error:
        problems += error.under(*path)


def _located(section, message):
    """The problems that an error's message names."""
    found = []
    for line in message.rpartition(WRAPPED)[2].split("\n"):
        argument, indices, rest = ARGUMENT.match(line).groups()
        path = _path_of(section, argument)
        if path:
            found.append(((*path, *map(int, re.findall(r"\d+", indices))), rest))
        elif found:
            found[-1] = (found[-1][0], f"{found[-1][1]}\n{line}")
        else:
            found.append(((), line))
    return found


def _path_of(section, argument):
    """The path of an argument's key, also of a section within; empty if there is none."""
    if argument in type(section).model_fields:
        return (argument,)
    for key in type(section).model_fields:
        inner = getattr(section, key)
        if isinstance(inner, Section) and argument in type(inner).model_fields:
            return (key, argument)
    return ()
