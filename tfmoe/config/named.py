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
        sections: subclasses of `Section`, each with a field `name: Literal["…"]`. Of sections that
            share a name, the one that has most of the keys is chosen, the first among equals.
        default: the name to use if the config gives none; `None` if the name is required.

    Returns:
        A type for a pydantic field.
    """
    if len(sections) == 1:
        return sections[0]

    def discriminator(value):
        # For None pydantic reports an error on the section itself, which `explain` words.
        section = type(value) if isinstance(value, Section) else chosen(sections, value, default)
        return None if section is None else _tag(section)

    union = typing.Union[  # noqa: UP007 (the members are only known at run time)
        tuple(typing.Annotated[section, pydantic.Tag(_tag(section))] for section in sections)
    ]
    return typing.Annotated[union, pydantic.Discriminator(discriminator), _Default(default)]


def _tag(section):
    return f"{name_of(section)} {section.__name__}"


def chosen(sections, value, default=None):
    """The one of several `Section` classes that a mapping is meant to be; `None` if that cannot be
    told.

    Args:
        sections: those of `one_of`.
        value: what the config has there.
        default: the name to suppose where the config gives none.
    """
    if not isinstance(value, dict):
        return None
    name = value.get("name", default)
    return max(
        (section for section in sections if name_of(section) == name),
        key=lambda section: len(value.keys() & section.model_fields.keys()),
        default=None,
    )


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
    return chosen(sections, value, default_name([annotation, *metadata]))
