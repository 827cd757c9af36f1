"""How much each expert of a mixture contributes.

Axes: T tokens, E experts, A assignments, D model.
"""

import math
from collections.abc import Collection, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfmoe.inspection.calls import MixtureCalls, inputs_of
from tfmoe.layers.mixture_layer import mixtures_of


def expert_saliency(
    model: keras.Model, batches: Iterable, names: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """The saliency of experts (Lasby et al. 2025, "REAP"): the mean over the tokens that select
    expert j of `g_j(x)·‖E_j(x)‖`, the gate value times the length of the expert's output.

    Args:
        model: a built model, on one device. Its mixtures run in evaluation, without a capacity.
        batches: inputs of the model, or tuples that begin with them.
        names: the mixtures, by the names of `mixtures_of`; `None` for all. Each must be flat, and
            its gate must read the inputs of the mixture.

    Returns:
        `{name: [E] float64 array}`; 0 for an expert that no token selects.

    Raises:
        ValueError: the model is not built, or a mixture is of another kind.
    """
    mixtures = mixtures_of(model)
    names = mixtures if names is None else names
    unknown = [name for name in names if name not in mixtures]
    if unknown:
        raise ValueError(
            f"{model.name} has no mixture {unknown[0]!r}, only {', '.join(mixtures) or 'none'}"
        )
    chosen = {id(mixtures[name]) for name in names}

    def measure(recording):
        layer = recording.layer
        if id(layer) not in chosen:
            return ()
        check_reads_tokens(layer, recording.tokens)
        return saliency_sums(layer.experts, recording.tokens, recording.routing.assignments)

    calls = MixtureCalls(model, measure)
    totals: dict[str, Any] = dict.fromkeys(names, 0.0)
    for batch in batches:
        results = calls(inputs_of(batch))
        for name in names:
            totals[name] = totals[name] + sum(np.array(result, float) for result in results[name])
    return {name: total[0] / np.maximum(total[1], 1) for name, total in totals.items()}


def saliency_sums(experts, tokens, assignments):
    """Sums over the tokens of each expert.

    Args:
        experts: built `tfmoe.layers.RoutedExperts` on one device.
        tokens: `[T, D]`.
        assignments: `tfmoe.ops.assignments.Assignments` of the tokens.

    Returns:
        `[2, E]`: the sum of `g_j·‖E_j(x)‖`, and the count of tokens.
    """
    rows = assignments.dispatch(tokens)
    outputs = experts.compute(rows, assignments.counts, assignments.rows_per_expert)
    lengths = tf.norm(tf.cast(outputs, tf.float32), axis=-1)
    weights = tf.cast(assignments.weights, tf.float32)
    counts = tf.cast(assignments.counts, tf.float32)
    return tf.stack([assignments.sum_by_expert(weights * lengths), counts])


def check_reads_tokens(layer, tokens):
    """Raises a `ValueError` if the experts of a mixture do not compute what its gate reads.

    Args:
        layer: the mixture.
        tokens: `[T, D]`, what the gate reads.
    """
    shape = getattr(layer.experts, "example_shape", None)  # None for matrices of a MoELSTM
    width = None if shape is None else math.prod(shape)
    if layer.gate.secondary is not None or width != tokens.shape[-1]:
        raise ValueError(
            f"the saliency of the experts of {layer.name} cannot be measured: it needs a MoE "
            "without groups whose gate reads what the experts compute; name other mixtures"
        )
