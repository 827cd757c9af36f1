"""Every gate of `tfmoe.gating.GATES`, and the places in a mixture where it must work.

A new gate needs one entry in `GATES` here; the conformance tests fail for a gate without one.
"""

import tensorflow as tf

from tfmoe import gating
from tfmoe.gating import Hierarchical
from tfmoe.layers import MoE

GATES = {
    "softmax": {"name": "softmax", "importance_weight": 0.1},
    "noisy_top_k": {"name": "noisy_top_k", "k": 2, "importance_weight": 0.1, "load_weight": 0.2},
    "switch": {"name": "switch", "balance_weight": 0.1},
    "batchwise": {"name": "batchwise", "k": 2, "importance_weight": 0.1},
    "hierarchical": {
        "name": "hierarchical",
        "groups": 2,
        "primary": {"name": "noisy_top_k", "k": 1, "load_weight": 0.2},
        "secondary": {"name": "softmax"},
    },
}
# The gate at the other level, where one gate is tried at one level of a hierarchical mixture.
OTHER_LEVEL = {"name": "noisy_top_k", "k": 2, "importance_weight": 0.1, "load_weight": 0.2}
FLAT = [name for name, gate in gating.GATES.items() if gate is not Hierarchical]
PLACES = {
    "flat": lambda gate: {"gate": gate},
    "groups": lambda gate: {"gate": gate, "groups": 4},
    "outer": lambda gate: {"gate": Hierarchical(4, gate, OTHER_LEVEL)},
    "without losses": lambda gate: {"gate": without_losses(gate)},
    "inner": lambda gate: {"gate": Hierarchical(4, OTHER_LEVEL, gate)},
}
VARIANTS = [(name, "flat") for name in gating.GATES]
LEVELS = ("groups", "outer", "inner")
VARIANTS += [(name, place) for place in LEVELS for name in FLAT]
# One gate that chooses experts for tokens, and one that chooses tokens for experts.
EVERYWHERE = ("noisy_top_k", "batchwise")


def is_quick(variant):
    """Whether `make test` has a variant: those of `EVERYWHERE`, and every other gate at `flat` and
    at one place of `LEVELS`, in turn.
    """
    name, place = variant
    own = LEVELS[list(GATES).index(name) % len(LEVELS)]
    return place == "flat" or name in EVERYWHERE or place == own


def make_mixture(variant, num_experts=12, hidden_units=6, **options):
    """A `MoE` named `moe`, with one gate at one place."""
    name, place = variant
    arguments = PLACES[place](GATES[name])
    return MoE(num_experts, hidden_units, name="moe", **arguments, **options)


def without_losses(gate):
    """A gate's configuration with all weights of losses at 0."""
    if not isinstance(gate, dict):
        return gate
    return {
        key: 0.0 if key.endswith("_weight") else without_losses(value)
        for key, value in gate.items()
    }


def draw_from_tokens(layer):
    """Makes whatever the gates of a mixture draw a function of the token, so that it is the same on
    any number of devices.
    """
    levels = (layer.gate, getattr(layer.gate, "primary", None), layer.gate.secondary)
    for number, gate in enumerate(levels):
        if hasattr(gate, "draw"):
            gate.draw = draw_of(gate.draw, number)


def draw_of(own, number):
    """A `draw` of the shape of a gate's own."""

    def draw(inputs):
        """`[T, …]`, differing for every token and column, between -2 and 2."""
        inputs = tf.stop_gradient(inputs)
        token = tf.reduce_sum(inputs * (1.0 + tf.range(inputs.shape[-1], dtype=inputs.dtype)), 1)
        expert = tf.range(own(inputs).shape[1], dtype=inputs.dtype) + 10.0 * number
        return 2 * tf.sin(5 * token[:, None] + 7 * expert[None])

    return draw
