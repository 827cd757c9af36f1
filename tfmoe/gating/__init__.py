"""Gates: which experts a token goes to, and with what weight. One gate per file, all of them in
`GATES`."""

import difflib
import inspect

import keras

from tfmoe.gating.batchwise import Batchwise
from tfmoe.gating.gate import Gate
from tfmoe.gating.hierarchical import Hierarchical
from tfmoe.gating.noisy_top_k import NoisyTopK
from tfmoe.gating.routing import Groups, Routing
from tfmoe.gating.softmax import Softmax
from tfmoe.gating.switch import Switch

GATES = {
    "softmax": Softmax,
    "noisy_top_k": NoisyTopK,
    "switch": Switch,
    "batchwise": Batchwise,
    "hierarchical": Hierarchical,
}

__all__ = [
    "GATES",
    "Batchwise",
    "Gate",
    "Groups",
    "Hierarchical",
    "NoisyTopK",
    "Routing",
    "Softmax",
    "Switch",
    "get",
]


def get(identifier):
    """The gate that an identifier stands for.

    Args:
        identifier: a `Gate`; a name of `GATES`, for that gate with its defaults; a dictionary of a
            name and the gate's arguments, `{"name": "noisy_top_k", "k": 2}`; or what
            `keras.saving.serialize_keras_object` made of one.

    Returns:
        A `Gate`.

    Raises:
        ValueError: if it stands for no gate.
    """
    if isinstance(identifier, Gate):
        return identifier
    if isinstance(identifier, dict) and "class_name" in identifier:
        gate = keras.saving.deserialize_keras_object(identifier)
        if isinstance(gate, Gate):
            return gate
        raise ValueError(f"gate must describe a Gate, got {identifier!r}")
    arguments = dict(identifier) if isinstance(identifier, dict) else {"name": identifier}
    name = arguments.pop("name", None)
    if not isinstance(name, str) or name not in GATES:
        near = difflib.get_close_matches(str(name), GATES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"gate must be a Gate or one of {', '.join(map(repr, GATES))}, got {identifier!r}{hint}"
        )
    try:
        inspect.signature(GATES[name]).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"gate {name!r}: {error}, got {identifier!r}") from error
    return GATES[name](**arguments)
