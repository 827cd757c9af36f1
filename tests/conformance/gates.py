"""Every gate of `tfmoe.gating.GATES`, and the mixtures in which it must work.

A new gate needs one entry in `GATES` here; the conformance tests fail for a gate without one.
"""

import functools

import pytest

from tfmoe import gating, testing
from tfmoe.gating import Hierarchical
from tfmoe.layers import MoE, MoELSTM
from tfmoe.testing.mixtures import OTHER_LEVEL

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
# The gates that can be a level of a hierarchical mixture.
AS_LEVEL = [
    name
    for name, gate in gating.GATES.items()
    if gate is not Hierarchical and not gate.needs_token_ids
]
MIXTURES = {
    **testing.MIXTURES,
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
    options = {"metrics": "all", **options}
    if mixture in RECURRENT:
        arguments = {"gate": GATES[name], **RECURRENT[mixture], **options}
        return MoELSTM(num_experts, 5, name="moe", **arguments)
    arguments = MIXTURES[mixture](GATES[name])
    return MoE(num_experts, hidden_units, name="moe", **arguments, **options)


def case_of(variant):
    """The `tfmoe.testing.GateCase` of a variant."""
    return testing.GateCase(functools.partial(make_mixture, variant), "-".join(variant))


def parameters(variants, quick):
    """Test parameters of variants; those that are not quick are marked slow.

    Args:
        variants: list of `(gate, mixture)`.
        quick: function of a variant.
    """
    for variant in variants:
        marks = () if quick(variant) else pytest.mark.slow
        yield pytest.param(variant, marks=marks, id="-".join(variant))
