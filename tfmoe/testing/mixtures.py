"""The mixtures in which gates are tested.

Axes: T tokens, D width.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfmoe.gating import Gate, Hierarchical
from tfmoe.layers import MoE

# The gate at the other level of a hierarchical mixture, when a gate is tested at one level.
OTHER_LEVEL = {"name": "noisy_top_k", "k": 2, "importance_weight": 0.1, "load_weight": 0.2}
MIXTURES: dict[str, Callable[[Any], dict]] = {
    "flat": lambda gate: {"gate": gate},
    "groups": lambda gate: {"gate": gate, "groups": 4},
    "outer": lambda gate: {"gate": Hierarchical(4, gate, OTHER_LEVEL)},
    "inner": lambda gate: {"gate": Hierarchical(4, OTHER_LEVEL, gate)},
}


def make_mixture(arguments_of, make_gate, num_experts=12, hidden_units=6, **options):
    """A `MoE` named `moe`.

    Args:
        arguments_of: a value of `MIXTURES`.
        make_gate: returns the gate, or its config.
        num_experts: the number of experts.
        hidden_units: width of the experts.
        **options: further arguments.
    """
    arguments = {"metrics": "all", **arguments_of(make_gate()), **options}
    return MoE(num_experts, hidden_units, name="moe", **arguments)


def gate_options(layer, x) -> dict:
    """The argument `gate_inputs` of a call of a mixture: for a gate that needs token ids, integers
    in 0..30 or so that are made from the inputs.

    Args:
        layer: the mixture.
        x: `[..., D]`, a tensor, an array or a symbolic Keras tensor.
    """
    if not layer.needs_token_ids:
        return {}
    return {"gate_inputs": keras.ops.cast(10 * keras.ops.abs(x[..., 0]), "int32")}


def levels_of(gate: Gate) -> list[Gate]:
    """The gates that select: both levels of a hierarchical gate, or the gate."""
    return [gate] if gate.secondary is None else [gate.primary, gate.secondary]


def draw_from_tokens(layer) -> None:
    """Replaces the random draws of a mixture's gates by a function of the token, so that they are
    the same on any number of devices.

    Args:
        layer: the mixture. Its gates draw in the methods `draw` and `draw_jitter`.
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


@contextlib.contextmanager
def in_dtype(dtype: str):
    """Sets the floating-point type of Keras, that of losses too, and its policy."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])
