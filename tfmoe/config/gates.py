"""The sections for gates, made from the gates' own constructors: a new gate in `GATES` needs
nothing here.
"""

import inspect
import typing

import pydantic

from tfmoe.config.named import Section
from tfmoe.gating import GATES, Gate

# Told by the layer that uses the gate.
SET_BY_LAYER = {"num_experts", "num_groups"}
# A hierarchical mixture is written as `groups: …` on its block.
NOT_NAMED = {"hierarchical"}
Scalar = int | float | str | bool | None


def gate_section(name, gate):
    """The `Section` class for a gate: a field for every argument of its constructor, with the
    constructor's default.

    The type of an argument is its annotation, or that of its default; `None` without annotation
    allows any scalar. What the types cannot say (k at least 1, …), the gate's own ValueErrors say
    when the config is checked.

    Args:
        name: the gate's name in `GATES`.
        gate: the `Gate` class.
    """
    fields = {"name": (typing.Literal[name], name)}
    for parameter in _parameters(gate):
        kind = parameter.annotation
        if kind is parameter.empty:
            untyped = parameter.default is None or parameter.default is parameter.empty
            kind = Scalar if untyped else type(parameter.default)
        default = ... if parameter.default is parameter.empty else parameter.default
        fields.setdefault(parameter.name, (kind, default))
    return pydantic.create_model(
        f"{gate.__name__}Gate",
        __base__=Section,
        __doc__=gate.__doc__,
        __validators__={"without_retired": _without_retired(gate.RETIRED)},
        **fields,
    )


def _without_retired(retired):
    """Lets configs of old runs name arguments that had no effect, at their default of 0."""

    def validate(values):
        if not isinstance(values, dict):
            return values
        return {k: v for k, v in values.items() if not (k in retired and v == 0)}

    return pydantic.model_validator(mode="before")(validate)


def _parameters(gate):
    """Arguments of the constructor, and those that it hands on to base classes up to `Gate`."""
    for cls in inspect.getmro(gate):
        if cls is Gate:
            return
        if "__init__" not in vars(cls):
            continue
        signature = inspect.signature(cls.__init__)
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        for parameter in list(signature.parameters.values())[1:]:
            if parameter.kind not in variadic and parameter.name not in SET_BY_LAYER:
                yield parameter
        hands_on = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
        if not hands_on:
            return


GATE_SECTIONS = {
    name: gate_section(name, gate) for name, gate in GATES.items() if name not in NOT_NAMED
}
