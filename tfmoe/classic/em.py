"""The EM algorithm for hierarchical mixtures of linear experts (Jordan and Jacobs 1994), in NumPy.

Axes: T rows, D inputs (a constant 1 is added), N outputs, E experts, J gates at a level, B branches
of a gate.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tfmoe.classic.mixture_tree import MixtureTree, log_sum_exp, matrix, with_constant
from tfmoe.ops.arguments import non_negative, positive, positive_number

NEWTON_STEPS = 2  # of each gate in a pass
MAX_HALVINGS = 10  # of a step that lowers the objective
INITIAL_DEVIATION = 0.5  # of the weights of gates


def fit_em(
    x: np.ndarray,
    y: np.ndarray,
    branching: Sequence[int] = (2, 2, 2, 2),
    passes: int = 40,
    ridge: float = 1e-3,
    gate_ridge: float = 0.1,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> MixtureTree:
    """Fits a hierarchical mixture of linear experts with the EM algorithm.

    A pass computes the posterior of each expert for each row, `h_e = g_e P_e(y|x) / Σ g P(y|x)`
    (E-step). Then each expert is fitted by least squares weighted with `h_e`, and each gate by
    logistic regression on the posteriors of its branches, with Newton steps (M-step, IRLS). In the
    computation, each column of x and y is scaled to mean 0 and variance 1, and an expert has one
    variance for all outputs.

    Args:
        x: `[T, D]`, the inputs.
        y: `[T, N]` or `[T]`, the targets.
        branching: the branches of a gate at each level, from the root: `(2, 2, 2, 2)` has 16
            experts; `(4,)` has four experts and one gate; `()` is linear regression.
        passes: the maximum number of passes.
        ridge: penalty of experts, `ridge/2·((‖U_e‖² + N)/σ_e² + N·ln σ_e²)` for each. It also keeps
            the variance of an expert without rows above 0.
        gate_ridge: penalty of gates, `gate_ridge/2·‖V‖²` for each.
        tolerance: EM stops if a pass raises the objective by less than this per row.
        seed: seed of the gates' random initial weights.

    Returns:
        A `MixtureTree`, for unscaled inputs and targets.

    Raises:
        ValueError: an argument has a wrong shape, or is out of range.

    Source: Jordan and Jacobs, "Hierarchical mixtures of experts and the EM algorithm" (1994).
    Paper: the ridge penalties are our own.
    """
    x, y = matrix("x", x), matrix("y", y)
    if len(x) != len(y):
        raise ValueError(f"x and y must have equally many rows, got {len(x)} and {len(y)}")
    if not isinstance(branching, (tuple, list)):
        raise ValueError(f"branching must be a tuple such as (2, 2), got {branching!r}")
    branching = [positive(f"branching[{level}]", count) for level, count in enumerate(branching)]
    passes = positive("passes", passes)
    ridge = positive_number("ridge", ridge)
    gate_ridge = positive_number("gate_ridge", gate_ridge)
    tolerance = non_negative("tolerance", tolerance)

    x_scale, y_scale = Scale(x), Scale(y)
    rows, targets = with_constant(x_scale.scaled(x)), y_scale.scaled(y)
    tree = initial_tree(rows, targets, branching, ridge, np.random.default_rng(seed))
    tree = maximize(tree, rows, targets, Penalty(ridge, gate_ridge), passes, tolerance)
    return unscaled(tree, x_scale, y_scale, len(rows))


def maximize(tree, rows, targets, penalty, passes, tolerance):
    """Runs passes of EM.

    Args:
        tree: the initial `MixtureTree`.
        rows: `[T, D+1]`, scaled.
        targets: `[T, N]`, scaled.
        penalty: a `Penalty`.
        passes: as for `fit_em`.
        tolerance: as for `fit_em`.

    Returns:
        A `MixtureTree` of scaled data, with the values of all passes.
    """
    log_likelihoods, objectives, converged = [], [], False
    while True:
        log_joint = tree.log_joint(rows, targets)
        log_likelihood = log_sum_exp(log_joint)
        log_likelihoods.append(log_likelihood.sum())
        objectives.append(log_likelihoods[-1] - penalty.of(tree))
        if len(objectives) > 1:
            converged = bool(objectives[-1] - objectives[-2] < tolerance * len(rows))
        if converged or len(objectives) > passes:
            return tree._replace(
                log_likelihoods=tuple(map(float, log_likelihoods)),
                objectives=tuple(map(float, objectives)),
                converged=converged,
            )
        tree = m_step(tree, rows, targets, np.exp(log_joint - log_likelihood), penalty)


class Penalty(NamedTuple):
    """The terms that the objective subtracts from the log likelihood.

    Attributes:
        ridge: of experts, in rows.
        gate_ridge: of gates.
    """

    ridge: float
    gate_ridge: float

    def of(self, tree):
        """The penalty of a `MixtureTree` of scaled data."""
        squares = (tree.expert_kernels**2).sum(1) + 1  # [E, N]
        experts = self.ridge * (squares / tree.variances + np.log(tree.variances)).sum()
        gates = self.gate_ridge * sum((kernels**2).sum() for kernels in tree.gate_kernels)
        return (experts + gates) / 2


def initial_tree(rows, targets, branching, ridge, rng):
    """A tree with random gates, and experts that are fitted with the gates' probabilities."""
    nodes = np.cumprod([1, *branching])
    kernels = tuple(
        rng.standard_normal([gates, rows.shape[1], branches]) * INITIAL_DEVIATION
        for gates, branches in zip(nodes, branching, strict=False)
    )
    shape = [nodes[-1], targets.shape[1]]
    tree = MixtureTree(kernels, np.zeros([shape[0], rows.shape[1], shape[1]]), np.ones(shape))
    experts = fit_experts(rows, targets, np.exp(tree.log_gates(rows)), ridge)
    return tree._replace(expert_kernels=experts[0], variances=experts[1])


def m_step(tree, rows, targets, posteriors, penalty):
    """The M-step: a tree with a higher objective, for posteriors `[T, E]`."""
    levels = []
    for kernels in tree.gate_kernels:
        gates, _, branches = kernels.shape
        counts = posteriors.reshape(len(rows), gates, branches, -1).sum(-1)
        levels.append(
            np.stack(
                [
                    fit_gate(rows, counts[:, gate], kernels[gate], penalty.gate_ridge)
                    for gate in range(gates)
                ]
            )
        )
    kernels, variances = fit_experts(rows, targets, posteriors, penalty.ridge)
    return MixtureTree(tuple(levels), kernels, variances)


def fit_experts(rows, targets, posteriors, ridge):
    """Weighted least squares for each expert.

    Args:
        rows: `[T, D+1]`.
        targets: `[T, N]`.
        posteriors: `[T, E]`, the weights.
        ridge: the penalty.

    Returns:
        Kernels `[E, D+1, N]` and variances `[E, N]`, equal for all outputs of an expert.
    """
    kernels, variances = [], []
    for weights in posteriors.T:
        weighted = rows * weights[:, None]
        kernel = np.linalg.solve(
            weighted.T @ rows + ridge * np.eye(rows.shape[1]), weighted.T @ targets
        )
        squares = weights @ (targets - rows @ kernel) ** 2 + ridge * ((kernel**2).sum(0) + 1)
        kernels.append(kernel)
        variances.append(np.full_like(squares, squares.mean() / (weights.sum() + ridge)))
    return np.stack(kernels), np.stack(variances)


def fit_gate(rows, counts, kernel, ridge):
    """Newton steps of a multinomial logistic regression (IRLS).

    Args:
        rows: `[T, D+1]`.
        counts: `[T, B]`, the posterior of each branch; a row's weight is its sum.
        kernel: `[D+1, B]`, where the steps begin.
        ridge: the penalty.

    Returns:
        `[D+1, B]`, of which `Σ counts·ln softmax(rows·kernel) − ridge/2·‖kernel‖²` is not lower.
    """
    weights = counts.sum(axis=1, keepdims=True)

    def objective(kernel):
        logits = rows @ kernel
        logs = logits - log_sum_exp(logits)
        return (counts * logs).sum() - ridge / 2 * (kernel**2).sum(), np.exp(logs)

    value, probabilities = objective(kernel)
    for _ in range(NEWTON_STEPS):
        gradient = rows.T @ (counts - weights * probabilities) - ridge * kernel
        step = newton_step(rows, weights, probabilities, gradient, ridge)
        for _ in range(MAX_HALVINGS):
            new_value, new_probabilities = objective(kernel + step)
            if new_value >= value:
                kernel, value, probabilities = kernel + step, new_value, new_probabilities
                break
            step = step / 2
    return kernel


def newton_step(rows, weights, probabilities, gradient, ridge):
    """Solves `H·step = gradient`, for the negative Hessian H of the objective of `fit_gate`."""
    inputs, branches = gradient.shape
    curvature = np.eye(branches) * probabilities[:, None]  # [T, B, B]
    curvature -= probabilities[:, :, None] * probabilities[:, None]
    curvature *= weights[:, :, None]
    hessian = np.empty([branches, inputs, branches, inputs])
    for a in range(branches):
        for b in range(branches):
            hessian[a, :, b] = rows.T @ (curvature[:, a, b, None] * rows)
    size = branches * inputs
    hessian = hessian.reshape(size, size) + ridge * np.eye(size)
    return np.linalg.solve(hessian, gradient.T.ravel()).reshape(branches, inputs).T


class Scale:
    """The mean and the standard deviation of each column of `values`, `[T, D]`. The deviation of a
    constant column is 1.
    """

    def __init__(self, values):
        self.mean = values.mean(axis=0)
        self.deviation = np.where(np.ptp(values, axis=0) > 0, values.std(axis=0), 1)

    def scaled(self, values):
        return (values - self.mean) / self.deviation


def unscaled(tree, x_scale, y_scale, num_rows):
    """Converts a fitted tree of T scaled rows to one of the data themselves."""
    to_scaled = np.diag(np.append(1 / x_scale.deviation, 1))  # [x, 1]·to_scaled is scaled
    to_scaled[-1, :-1] = -x_scale.mean / x_scale.deviation
    experts = to_scaled @ tree.expert_kernels * y_scale.deviation
    experts[:, -1] += y_scale.mean
    # The change of the log density of the targets.
    offset = float(num_rows * np.log(y_scale.deviation).sum())
    return tree._replace(
        gate_kernels=tuple(to_scaled @ kernels for kernels in tree.gate_kernels),
        expert_kernels=experts,
        variances=tree.variances * y_scale.deviation**2,
        log_likelihoods=tuple(value - offset for value in tree.log_likelihoods),
        objectives=tuple(value - offset for value in tree.objectives),
    )
