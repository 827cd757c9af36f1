"""A tree of softmax gates over linear experts, in NumPy.

Axes: T rows, D inputs (a constant 1 is added), N outputs, E experts, J gates at a level, B branches
of a gate.
"""

import math
from typing import NamedTuple

import numpy as np


class MixtureTree(NamedTuple):
    """A hierarchical mixture of linear experts with Gaussian noise, as `fit_em` returns it.

    `P(y|x) = Σ_e g_e(x) N(y; U_eᵀ[x, 1], Σ_e)`, where `g_e` is the product of the softmax
    probabilities on the path from the root to expert e, and `Σ_e` is diagonal.

    Attributes:
        gate_kernels: a tuple of one array per level, `[J, D+1, B]`: the J gates of a level, where
            J is 1 at the root, and J·B at the next level.
        expert_kernels: `[E, D+1, N]`.
        variances: `[E, N]`.
        log_likelihoods: the log likelihood of the training data, before the first pass of EM and
            after each pass; in nats, a sum over rows.
        objectives: the same minus the ridge penalty: it never decreases.
        converged: whether EM stopped because of its tolerance.
    """

    gate_kernels: tuple[np.ndarray, ...]
    expert_kernels: np.ndarray
    variances: np.ndarray
    log_likelihoods: tuple[float, ...] = ()
    objectives: tuple[float, ...] = ()
    converged: bool = False

    def predict(self, x: np.ndarray) -> np.ndarray:
        """The mean `Σ_e g_e(x) U_eᵀ[x, 1]`: `[T, D]` to `[T, N]`."""
        rows = self.rows(x)
        return np.einsum("te,ten->tn", np.exp(self.log_gates(rows)), self.outputs(rows))

    def gates(self, x: np.ndarray) -> np.ndarray:
        """The probabilities `g_e(x)`: `[T, D]` to `[T, E]`."""
        return np.exp(self.log_gates(self.rows(x)))

    def log_likelihood(self, x: np.ndarray, y: np.ndarray) -> float:
        """The sum over rows of `ln P(y|x)`, for `[T, D]` inputs and `[T, N]` targets."""
        rows = self.rows(x)
        targets = matrix("y", y, self.variances.shape[1])
        if len(targets) != len(rows):
            raise ValueError(
                f"x and y must have equally many rows, got {len(rows)} and {len(targets)}"
            )
        return float(log_sum_exp(self.log_joint(rows, targets)).sum())

    def rows(self, x):
        """Checks inputs `[T, D]` and adds the constant 1: `[T, D+1]`."""
        return with_constant(matrix("x", x, self.expert_kernels.shape[1] - 1))

    def log_gates(self, rows):
        """`ln g_e`: `[T, D+1]` to `[T, E]`."""
        total = np.zeros([len(rows), 1])
        for kernels in self.gate_kernels:
            logits = np.moveaxis(rows @ kernels, 0, 1)  # [T, J, B]
            logs = logits - log_sum_exp(logits)
            total = (total[:, :, None] + logs).reshape(len(rows), -1)
        return total

    def outputs(self, rows):
        """The outputs of all experts: `[T, D+1]` to `[T, E, N]`."""
        return np.moveaxis(rows @ self.expert_kernels, 0, 1)

    def log_joint(self, rows, targets):
        """`ln (g_e(x) P_e(y|x))`: `[T, D+1]` and `[T, N]` to `[T, E]`."""
        errors = targets[:, None] - self.outputs(rows)
        squares = (errors**2 / self.variances + np.log(2 * math.pi * self.variances)).sum(-1)
        return self.log_gates(rows) - squares / 2


def with_constant(x):
    """Adds a column of ones: `[T, D]` to `[T, D+1]`."""
    return np.column_stack([x, np.ones(len(x))])


def log_sum_exp(values):
    """`ln Σ exp(values)` over the last axis, which is kept."""
    highest = values.max(axis=-1, keepdims=True)
    return highest + np.log(np.exp(values - highest).sum(axis=-1, keepdims=True))


def matrix(name, values, columns=None):
    """Returns an argument as a float64 array `[T, columns]`; `[T]` becomes `[T, 1]`.

    Raises:
        ValueError: it has no rows, another shape, or a value that is not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or not values.size or columns not in (None, values.shape[1]):
        expected = "columns" if columns is None else columns
        raise ValueError(f"{name} must have the shape [rows, {expected}], got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return values
