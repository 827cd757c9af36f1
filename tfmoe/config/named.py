"""Sections of a config that are one of several kinds, chosen by their key `name`."""

import typing

import pydantic


class Section(pydantic.BaseModel):
    """Base class of all sections of a config. Rejects unknown keys, and converts no types.

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
        default: the name to use if the config gives none; `None` if the name is required.

    Returns:
        A type for a pydantic field.
    """
    if len(sections) == 1:
        return sections[0]

    def tag(value):
        return value.get("name", default) if isinstance(value, dict) else value.name

    def discriminator(value):
        # For None pydantic reports an error on the section itself, which `explain` words.
        name = tag(value) if isinstance(value, (dict, Section)) else None
        return name if isinstance(name, str) else None

    union = typing.Union[  # noqa: UP007 (the members are only known at run time)
        tuple(typing.Annotated[section, pydantic.Tag(name_of(section))] for section in sections)
    ]
    return typing.Annotated[union, pydantic.Discriminator(discriminator), _Default(default)]


class _Default:
    """Metadata of a type: the `default` of `one_of`, which `default_name` reads."""

    def __init__(self, name):
        self.name = name


def name_of(section):
    """The name that chooses a `Section` class."""
    return typing.get_args(section.model_fields["name"].annotation)[0]


def sections_of(annotation):
    """The `Section` classes that a field's type allows as the field's value, not as items of a
    list: a tuple, often empty.
    """
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return (annotation,)
    if typing.get_origin(annotation) in (typing.Annotated, typing.Union, type(int | None)):
        sections = [s for argument in typing.get_args(annotation) for s in sections_of(argument)]
        return tuple(dict.fromkeys(sections))
    return ()


def default_name(annotations):
    """The default name of `one_of` in a field's type or metadata, or `None`."""
    for annotation in annotations:
        if isinstance(annotation, _Default):
            return annotation.name
        if typing.get_origin(annotation) is typing.Annotated:
            name = default_name(typing.get_args(annotation))
            if name is not None:
                return name
    return None


def item_type(annotation):
    """The type of the items of a list field, or `None` if the field is not a list."""
    if typing.get_origin(annotation) is list:
        return typing.get_args(annotation)[0]
    for argument in typing.get_args(annotation):
        inner = item_type(argument)
        if inner is not None:
            return inner
    return None


def section_at(annotation, value, metadata=()):
    """The `Section` class that the value of a field chooses, or `None` if it chooses none.

    Args:
        annotation: the field's type.
        value: the value in the config.
        metadata: the field's metadata, where pydantic stores the arguments of `Annotated`.
    """
    sections = sections_of(annotation)
    if len(sections) <= 1:
        return sections[0] if sections else None
    if not isinstance(value, dict):
        return None
    name = value.get("name", default_name([annotation, *metadata]))
    return next((section for section in sections if name_of(section) == name), None)
