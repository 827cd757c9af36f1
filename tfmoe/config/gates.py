"""The sections of gates."""

from tfmoe.config.number_types import LAYER_FIELDS
from tfmoe.config.sections import section_of
from tfmoe.gating import GATES, Gate

# A config chooses a hierarchical mixture with the block's key `groups`.
WITHOUT_SECTION = {"hierarchical"}

GATE_SECTIONS = {
    name: section_of(gate, name, base=Gate, fields=LAYER_FIELDS)
    for name, gate in GATES.items()
    if name not in WITHOUT_SECTION
}
