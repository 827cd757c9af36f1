"""How much each expert of a mixture contributes.

Axes: T tokens, E experts, A assignments, D model.
"""

from collections.abc import Collection, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfmoe.inspection.calls import MixtureCalls, inputs_of
from tfmoe.layers.mixture_layer import mixtures_of


def expert_saliency(
    model: keras.Model, batches: Iterable, names: Collection[str]
) -> dict[str, np.ndarray]:
    """The saliency of experts (Lasby et al. 2025, "REAP"): the mean over the tokens that select
    expert j of `g_j(x)·‖E_j(x)‖`, the gate value times the length of the expert's output.

    Args:
        model: a built model, on one device. Its mixtures run in evaluation, without a capacity.
        batches: inputs of the model, or tuples that begin with them.
        names: the mixtures, by the names of `tfmoe.layers.mixture_layer.mixtures_of`. Each must be
            flat, and its gate must read the inputs of the mixture.

    Returns:
        `{name: [E] float64 array}`; 0 for an expert that no token selects.
    """

    chosen = {id(mixtures_of(model)[name]) for name in names}

    def measure(recording):
        layer = recording.layer
        if id(layer) not in chosen:
            return ()
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
