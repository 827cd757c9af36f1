"""Gates with known weights, and routings as dense arrays: what the tests of `Batchwise` share."""

import math

import numpy as np

from tfmoe.gating import Batchwise

X = np.random.default_rng(0).standard_normal((11, 5))


def built_gate(num_experts, input_dim=5, spread=0.3, **arguments):
    """A float64 gate with random kernels and thresholds around 1/E, the same at each call."""
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


def ceil_of(k, num_tokens, num_experts):
    return math.ceil(k * num_tokens / num_experts)


def batchwise_mask(probability, num_taken, rows=slice(None)):
    """`[T, E]` 0 or 1: eq 18 among the `rows`, the earlier token first among equals."""
    mask = np.zeros_like(probability)
    tokens = np.arange(len(probability))[rows]
    for i in range(probability.shape[1]):
        order = np.argsort(-probability[tokens, i], kind="stable")
        mask[tokens[order[:num_taken]], i] = 1
    return mask


def dense_gates(routing, num_tokens, num_experts):
    """`[T, E]` from a `Routing`; every assignment must come once."""
    tokens, experts, gates = (each.numpy() for each in routing.assignments.by_token())
    assert len({*zip(tokens, experts, strict=True)}) == len(tokens)
    dense = np.zeros((num_tokens, num_experts))
    dense[tokens, experts] = gates
    return dense


def chosen(routing, num_tokens, num_experts):
    """`[T, E]` 0 or 1: the assignments of a `Routing`."""
    tokens, experts, _ = (each.numpy() for each in routing.assignments.by_token())
    mask = np.zeros((num_tokens, num_experts))
    np.add.at(mask, (tokens, experts), 1)
    return mask


def values_of(measures):
    return {name: float(value) for name, value in measures.items()}


D, HIDDEN = 5, 7
