"""Gates with known weights, and routings as dense arrays, for the tests of `Batchwise`."""

import math

import numpy as np

from tfmoe.gating import Batchwise

X = np.random.default_rng(0).standard_normal((11, 5))


def built_gate(num_experts, input_dim=5, spread=0.3, **arguments):
    """A float64 gate with random kernels and thresholds around 1/E, the same in every call."""
    gate = Batchwise(num_experts=num_experts, dtype="float64", **arguments)
    gate.build((None, input_dim))
    rng = np.random.default_rng(2)
    gate.kernels["gate_kernel"].assign(rng.standard_normal(gate.kernels["gate_kernel"].shape))
    gate.log_thresholds.assign(
        rng.uniform(-spread, spread, gate.log_thresholds.shape) - math.log(num_experts)
    )
    return gate


def softmax(logits):
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def probability_of(gate, x=X):
    return softmax(x @ gate.kernels["gate_kernel"].numpy())


def tokens_per_expert(k, num_tokens, num_experts):
    return math.ceil(k * num_tokens / num_experts)


def batchwise_mask(probability, num_taken, rows=slice(None)):
    """The mask of eq 18 for the `rows`, `[T, E]` 0 or 1; in a tie the earlier token is first."""
    mask = np.zeros_like(probability)
    tokens = np.arange(len(probability))[rows]
    for i in range(probability.shape[1]):
        order = np.argsort(-probability[tokens, i], kind="stable")
        mask[tokens[order[:num_taken]], i] = 1
    return mask


def assignment_mask(routing, num_tokens, num_experts):
    """The assignments of a `Routing` as `[T, E]` 0 or 1."""
    tokens, experts, _ = (values.numpy() for values in routing.assignments.by_token())
    mask = np.zeros((num_tokens, num_experts))
    np.add.at(mask, (tokens, experts), 1)
    return mask


def values_of(measures):
    return {name: float(value) for name, value in measures.items()}


D, HIDDEN = 5, 7
