"""The gates by name, and the resolution of gate arguments."""

import difflib
import inspect

import keras

from tfmoe.gating.batchwise import Batchwise
from tfmoe.gating.bias_balanced import BiasBalanced
from tfmoe.gating.expert_choice import ExpertChoice
from tfmoe.gating.expert_threshold import ExpertThreshold
from tfmoe.gating.gshard import GShard
from tfmoe.gating.hash import Hash
from tfmoe.gating.noisy_top_k import NoisyTopK
from tfmoe.gating.quantile_balanced import QuantileBalanced
from tfmoe.gating.softmax import Softmax
from tfmoe.gating.switch import Switch
from tfmoe.gating.top_k import TopK

# Gates with one level. `tfmoe.gating.GATES` adds `Hierarchical`, which combines two of them.
FLAT_GATES = {
    "softmax": Softmax,
    "noisy_top_k": NoisyTopK,
    "switch": Switch,
    "batchwise": Batchwise,
    "bias_balanced": BiasBalanced,
    "top_k": TopK,
    "gshard": GShard,
    "expert_choice": ExpertChoice,
    "expert_threshold": ExpertThreshold,
    "quantile_balanced": QuantileBalanced,
    "hash": Hash,
}


def is_gate(value):
    """Whether a value is a gate: an object (not a class) that a mixture can copy."""
    return hasattr(value, "for_experts") and not inspect.isclass(value)


def hint_for(identifier, gates):
    """What somebody who gave a value that is no gate may have meant, for the error."""
    if inspect.isclass(identifier) and hasattr(identifier, "for_experts"):
        return f": give an object, {identifier.__name__}()"
    if isinstance(identifier, int) and not isinstance(identifier, bool):
        return f"; for {identifier} experts per token give NoisyTopK(k={identifier})"
    if isinstance(identifier, dict) and "name" not in identifier:
        return ", which has no 'name'"
    name = identifier["name"] if isinstance(identifier, dict) else identifier
    matches = difflib.get_close_matches(str(name), gates, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def gate_of(argument, identifier, gates):
    """Resolves a gate argument.

    Args:
        argument: the argument's name, for the error.
        identifier: a `Gate`; a name in `gates`, for that gate with its defaults; a dictionary of a
            name and the gate's arguments, such as `{"name": "noisy_top_k", "k": 2}`; or the result
            of `keras.saving.serialize_keras_object` for a gate.
        gates: classes by name.

    Returns:
        A `Gate`.

    Raises:
        ValueError: the identifier is none of these.
    """
    if is_gate(identifier):
        return identifier
    if isinstance(identifier, dict) and "class_name" in identifier:
        gate = keras.saving.deserialize_keras_object(identifier)
        if is_gate(gate):
            return gate
        raise ValueError(f"{argument} must describe a Gate, got {identifier!r}")
    settings = dict(identifier) if isinstance(identifier, dict) else {"name": identifier}
    name = settings.pop("name", None)
    if not isinstance(name, str) or name not in gates:
        raise ValueError(
            f"{argument} must be a Gate or one of {', '.join(map(repr, gates))}, "
            f"got {identifier!r}{hint_for(identifier, gates)}"
        )
    try:
        inspect.signature(gates[name]).bind(**settings)
    except TypeError as error:
        raise ValueError(f"{argument} {name!r}: {error}, got {identifier!r}") from error
    return gates[name](**settings)
