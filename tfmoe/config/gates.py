"""The sections of gates."""

from tfmoe.config.sections import section_of
from tfmoe.gating import GATES, Gate

# A hierarchical mixture is written as `groups: …` on its block.
NOT_NAMED = {"hierarchical"}

GATE_SECTIONS = {
    name: section_of(gate, name, base=Gate) for name, gate in GATES.items() if name not in NOT_NAMED
}
