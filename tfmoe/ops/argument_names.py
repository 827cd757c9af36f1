"""Checks the names of constructor arguments."""

import difflib
import inspect
from collections.abc import Mapping

# The keyword arguments that every Keras layer takes.
OF_KERAS = {
    "activity_regularizer", "autocast", "dtype", "input_dim", "input_shape", "name", "trainable",
}  # fmt: skip
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def check_names(cls: type, keywords: Mapping, hints: Mapping[str, str]):
    """Raises an error for keyword arguments that neither a class nor Keras has.

    Args:
        cls: the class.
        keywords: the keyword arguments that are left for Keras' layer.
        hints: `{name: what to do}`, for names that people try.

    Raises:
        ValueError: the message names the argument, its value, and what is right.
    """
    for name, value in keywords.items():
        if name in OF_KERAS:
            continue
        given = f"{cls.__name__} has no argument {name!r}, got {name}={value!r}"
        if name in hints:
            raise ValueError(f"{given}: {hints[name].format(value)}")
        names = argument_names(cls)
        matches = difflib.get_close_matches(name.lower(), names, n=1)
        if matches:
            raise ValueError(f"{given}; did you mean {matches[0]!r}?")
        raise ValueError(f"{given}; its arguments are {', '.join(names)}")


def argument_names(cls: type) -> list[str]:
    """The names of the constructor arguments of a class and of the classes that it derives from,
    without those that every Keras layer has.
    """
    names = {}  # in order
    for base in cls.__mro__:
        constructor = vars(base).get("__init__")
        if constructor is not None and not base.__module__.startswith("keras."):
            parameters = list(inspect.signature(constructor).parameters.values())[1:]
            names.update({p.name: True for p in parameters if p.kind not in VARIADIC})
    return [name for name in names if name not in OF_KERAS]
