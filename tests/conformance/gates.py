"""Every gate of `tfmoe.gating.GATES`, and the mixtures in which it must work.

A new gate needs one entry in `GATES` here; the conformance tests fail for a gate without one.
"""

import keras
import tensorflow as tf

from tfmoe import gating
from tfmoe.gating import Hierarchical
from tfmoe.layers import MoE, MoELSTM

GATES = {
    "softmax": {
        "name": "softmax",
        "importance_weight": 0.1,
        "z_loss_weight": 0.1,
        "gate_hidden_units": 7,
    },
    "noisy_top_k": {"name": "noisy_top_k", "k": 2, "importance_weight": 0.1, "load_weight": 0.2},
    "switch": {
        "name": "switch",
        "balance_weight": 0.1,
        "z_loss_weight": 0.1,
        "jitter": 0.2,
        "capacity_factor": 1.5,
        "minimum_capacity": 2,
    },
    "batchwise": {"name": "batchwise", "k": 2, "importance_weight": 0.1},
    "bias_balanced": {"name": "bias_balanced", "k": 2, "bias_step": 0.1},
    "top_k": {
        "name": "top_k",
        "k": 2,
        "score": "sigmoid",
        "scale": 2.5,
        "use_bias": True,
        "balance_weight": 0.1,
    },
    "gshard": {
        "name": "gshard",
        "balance_weight": 0.1,
        "capacity_factor": 1.5,
        "evaluation_capacity_factor": 2.0,
        "minimum_capacity": 1,
    },
    "expert_choice": {"name": "expert_choice", "capacity_factor": 1.5, "z_loss_weight": 0.1},
    "expert_threshold": {"name": "expert_threshold", "k": 2, "ema": 0.5},
    "quantile_balanced": {"name": "quantile_balanced", "k": 2, "ema": 0.25},
    "hash": {"name": "hash", "vocabulary_size": 20},
    "hierarchical": {
        "name": "hierarchical",
        "groups": 2,
        "primary": {"name": "noisy_top_k", "k": 1, "load_weight": 0.2},
        "secondary": {"name": "softmax"},
    },
}
# The gate at the other level of a hierarchical mixture, when a gate is tested at one level.
OTHER_LEVEL = {"name": "noisy_top_k", "k": 2, "importance_weight": 0.1, "load_weight": 0.2}
# The gates that can be a level of a hierarchical mixture.
AS_LEVEL = [
    name
    for name, gate in gating.GATES.items()
    if gate is not Hierarchical and not gate.needs_token_ids
]
MIXTURES = {
    "flat": lambda gate: {"gate": gate},
    "groups": lambda gate: {"gate": gate, "groups": 4},
    "outer": lambda gate: {"gate": Hierarchical(4, gate, OTHER_LEVEL)},
    "without losses": lambda gate: {"gate": without_losses(gate)},
    "inner": lambda gate: {"gate": Hierarchical(4, OTHER_LEVEL, gate)},
    "few groups": lambda gate: {"gate": Hierarchical(3, OTHER_LEVEL, gate)},
}
# Settings of a recurrent mixture.
RECURRENT = {
    "state": {},
    "planned": {"gate_from": "input"},
    "recomputed": {"recompute": True},
    "input by state": {"mixture_of": "input"},
    "at once": {"mixture_of": "input", "gate_from": "input"},
}
VARIANTS = [(name, "flat") for name in gating.GATES]
LEVELS = ("groups", "outer", "inner")
VARIANTS += [(name, mixture) for mixture in LEVELS for name in AS_LEVEL]
# One gate that selects experts for tokens, and one that selects tokens for experts.
FULLY_TESTED = ("noisy_top_k", "batchwise")
# To save time, of these gates `make test` runs `flat` only, or nothing.
FLAT_ONLY = ("bias_balanced", "top_k", "gshard")
SLOW = ("expert_choice", "expert_threshold", "quantile_balanced", "hash")


def is_quick(variant):
    """Whether `make test` runs a variant: all of the gates in `FULLY_TESTED`; for every other gate
    `flat` and one of `LEVELS`, in turn, with the exceptions of `FLAT_ONLY` and `SLOW`.
    """
    name, mixture = variant
    if name in SLOW or (name in FLAT_ONLY and mixture != "flat"):
        return False
    tested_level = LEVELS[list(GATES).index(name) % len(LEVELS)]
    return mixture == "flat" or name in FULLY_TESTED or mixture == tested_level


def make_mixture(variant, num_experts=12, hidden_units=6, **options):
    """A `MoE` named `moe`, for a gate and a mixture of `MIXTURES`; for a mixture of `RECURRENT` a
    `MoELSTM` with 5 units.
    """
    name, mixture = variant
    if mixture in RECURRENT:
        arguments = {"gate": GATES[name], **RECURRENT[mixture], **options}
        return MoELSTM(num_experts, 5, name="moe", **arguments)
    arguments = MIXTURES[mixture](GATES[name])
    return MoE(num_experts, hidden_units, name="moe", **arguments, **options)


def gate_options(layer, x):
    """The argument `gate_inputs` of a call of a mixture: for a gate that needs token ids, integers
    in 0..30 or so that are made from the inputs.

    Args:
        layer: the mixture.
        x: `[..., D]`, a tensor, an array or a symbolic Keras tensor.
    """
    if not layer.needs_token_ids:
        return {}
    return {"gate_inputs": keras.ops.cast(10 * keras.ops.abs(x[..., 0]), "int32")}


def has_loss(gate):
    """Whether the configuration of a gate has a loss."""
    return gate["name"] == "batchwise" or without_losses(gate) != gate


def without_losses(gate):
    """The configuration of a gate with all loss weights at 0."""
    if not isinstance(gate, dict):
        return gate
    return {
        key: 0.0 if key.endswith("_weight") else without_losses(value)
        for key, value in gate.items()
    }


def draw_from_tokens(layer):
    """Replaces the random draws of a mixture's gates by a function of the token, so that they are
    the same on any number of devices.
    """
    levels = (layer.gate, getattr(layer.gate, "primary", None), layer.gate.secondary)
    for level, gate in enumerate(levels):
        for name in ("draw", "draw_jitter"):
            if hasattr(gate, name):
                setattr(gate, name, deterministic_draw(getattr(gate, name), level))


def deterministic_draw(random_draw, level):
    """A replacement for a gate's `draw`, with the same shape."""

    def draw(inputs):
        """`[T, …]`, different for every token and column, between -2 and 2."""
        inputs = tf.stop_gradient(inputs)
        token = tf.reduce_sum(inputs * (1.0 + tf.range(inputs.shape[-1], dtype=inputs.dtype)), 1)
        expert = tf.range(random_draw(inputs).shape[1], dtype=inputs.dtype) + 10.0 * level
        return 2 * tf.sin(5 * token[:, None] + 7 * expert[None])

    return draw
