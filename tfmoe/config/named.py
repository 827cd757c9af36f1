"""Sections of a config that are one of several kinds, told apart by their key `name`."""

import typing

import pydantic


class Section(pydantic.BaseModel):
    """Base class of all sections of a config: no unknown keys, no conversion between types.

    Attributes:
        made_from: the constructor that the section was made from (`tfmoe.config.sections`), or
            `None`.
    """

    model_config = pydantic.ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=()
    )
    made_from: typing.ClassVar = None


def one_of(*sections, default=None):
    """The type of a field that holds one of several sections.

    Args:
        sections: subclasses of `Section`, each with a field `name: Literal["…"]`.
        default: the name to suppose where the config gives none, or `None` if it must.

    Returns:
        A type for a pydantic field.
    """
    if len(sections) == 1:
        return sections[0]

    def tag(value):
        return value.get("name", default) if isinstance(value, dict) else value.name

    def discriminator(value):
        # None makes pydantic report the section itself; `explain` says what is wrong with it.
        found = tag(value) if isinstance(value, (dict, Section)) else None
        return found if isinstance(found, str) else None

    union = typing.Union[  # noqa: UP007 (the members are only known here)
        tuple(typing.Annotated[section, pydantic.Tag(name_of(section))] for section in sections)
    ]
    return typing.Annotated[union, pydantic.Discriminator(discriminator), _Default(default)]


class _Default:
    """Keeps the `default` of `one_of` where `default_name` finds it."""

    def __init__(self, name):
        self.name = name


def name_of(section):
    """The name by which a config chooses a `Section` class."""
    return typing.get_args(section.model_fields["name"].annotation)[0]


def sections_of(annotation):
    """The `Section` classes that a field's type allows at its place (not inside a list): a tuple,
    often empty.
    """
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return (annotation,)
    if typing.get_origin(annotation) in (typing.Annotated, typing.Union, type(int | None)):
        found = []
        for argument in typing.get_args(annotation):
            found += [section for section in sections_of(argument) if section not in found]
        return tuple(found)
    return ()


def default_name(annotations):
    """The default name of `one_of` in a field's type or metadata, or `None`."""
    for annotation in annotations:
        if isinstance(annotation, _Default):
            return annotation.name
        if typing.get_origin(annotation) is typing.Annotated:
            found = default_name(typing.get_args(annotation))
            if found is not None:
                return found
    return None


def item_type(annotation):
    """The type of the items of a list field, or `None` if the field is no list."""
    if typing.get_origin(annotation) is list:
        return typing.get_args(annotation)[0]
    for argument in typing.get_args(annotation):
        found = item_type(argument)
        if found is not None:
            return found
    return None


def section_at(annotation, value, metadata=()):
    """The `Section` class that a value of a field is meant to be, or `None` if that cannot be told.

    Args:
        annotation: the field's type.
        value: what the config has there.
        metadata: the field's metadata, where pydantic puts what stands around the type.
    """
    sections = sections_of(annotation)
    if len(sections) <= 1:
        return sections[0] if sections else None
    if not isinstance(value, dict):
        return None
    name = value.get("name", default_name([annotation, *metadata]))
    return next((section for section in sections if name_of(section) == name), None)
