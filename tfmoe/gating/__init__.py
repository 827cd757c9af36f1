"""Gates: which experts a token goes to, and with what weight. One gate per file, all of them in
`GATES`."""

from tfmoe.gating.batchwise import Batchwise
from tfmoe.gating.gate import Gate
from tfmoe.gating.hierarchical import Hierarchical
from tfmoe.gating.noisy_top_k import NoisyTopK
from tfmoe.gating.registry import FLAT_GATES, gate_of
from tfmoe.gating.routing import Groups, Routing
from tfmoe.gating.softmax import Softmax
from tfmoe.gating.switch import Switch

GATES = {**FLAT_GATES, "hierarchical": Hierarchical}

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
        identifier: a `Gate`, a name of `GATES`, or a dictionary; see
            `tfmoe.gating.registry.gate_of`.

    Returns:
        A `Gate`.

    Raises:
        ValueError: if it stands for no gate.
    """
    return gate_of("gate", identifier, GATES)
