"""EM for hierarchical mixtures of linear experts."""

import math

import numpy as np
import pytest
from keras.layers import Dense

from tfmoe.classic import LocalExperts, MixtureTree, fit_em, relative_error, simulated_arm
from tfmoe.classic.em import Penalty, fit_gate, m_step
from tfmoe.gating import Hierarchical

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((200, 3)), RNG.standard_normal((200, 2))


def softmax(logits):
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def bent(rows=300, noise=0.05):
    """`y = |x|` with noise."""
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, [rows, 1])
    return x, np.abs(x) + noise * rng.standard_normal([rows, 1])


def test_density_by_hand():
    """p = (1/4, 3/4) at x = 1, the experts' means are 2x and 1; y = 1 has the densities
    `N(1; 2, 1) = 0.2419707` and `N(1; 1, 1/4) = 0.7978846`.
    """
    tree = MixtureTree(
        gate_kernels=(np.array([[[0.0, math.log(3)], [0.0, 0.0]]]),),
        expert_kernels=np.array([[[2.0], [0.0]], [[0.0], [1.0]]]),
        variances=np.array([[1.0], [0.25]]),
    )
    np.testing.assert_allclose(tree.gates([[1.0]]), [[0.25, 0.75]])
    np.testing.assert_allclose(tree.predict([[1.0]]), [[0.25 * 2 + 0.75]])
    density = 0.25 * 0.2419707 + 0.75 * 0.7978846
    assert tree.log_likelihood([[1.0]], [1.0]) == pytest.approx(math.log(density), rel=1e-6)
    # At x = 0 the gate is even, and the means are 0 and 1.
    np.testing.assert_allclose(tree.predict([0.0, 1.0]), [[0.5], [1.25]])


def test_gates_of_three_levels_are_products():
    kernels = [RNG.standard_normal(shape) for shape in ((1, 4, 2), (2, 4, 3), (6, 4, 2))]
    tree = MixtureTree(tuple(kernels), np.zeros([12, 4, 1]), np.ones([12, 1]))
    rows = np.column_stack([X, np.ones(len(X))])
    gates = tree.gates(X)
    expert = 0
    for i in range(2):
        for j in range(3):
            for k in range(2):
                product = softmax(rows @ kernels[0][0])[:, i]
                product = product * softmax(rows @ kernels[1][i])[:, j]
                product = product * softmax(rows @ kernels[2][3 * i + j])[:, k]
                np.testing.assert_allclose(gates[:, expert], product, rtol=1e-10)
                expert += 1


def test_two_levels_are_the_keras_model():
    tree = fit_em(X, Y, (2, 3), passes=3)
    model = LocalExperts([Dense(2, dtype="float64") for _ in "abcdef"], dtype="float64",
                         gate=Hierarchical(2, "softmax"))  # fmt: skip
    model(X)
    model.gate.primary.gate_kernel.assign(tree.gate_kernels[0][0])
    model.gate.secondary.gate_kernel.assign(tree.gate_kernels[1])
    for expert, kernel in zip(model.experts, tree.expert_kernels, strict=True):
        expert.kernel.assign(kernel[:-1])
        expert.bias.assign(kernel[-1])
    outputs = model(X)
    np.testing.assert_allclose(outputs["gates"], tree.gates(X), rtol=1e-9)
    np.testing.assert_allclose(outputs["mean"], tree.predict(X), rtol=1e-9, atol=1e-12)
    unit = tree._replace(variances=np.ones([6, 2]))
    loss = len(X) * (float(model.compute_loss(y=Y, y_pred=outputs)) + math.log(2 * math.pi))
    assert loss == pytest.approx(-unit.log_likelihood(X, Y), rel=1e-10)


def test_no_branch_is_linear_regression():
    tree = fit_em(X, Y, (), ridge=1e-9)
    rows = np.column_stack([X, np.ones(len(X))])
    weights, *_ = np.linalg.lstsq(rows, Y, rcond=None)
    np.testing.assert_allclose(tree.expert_kernels[0], weights, atol=1e-9)
    np.testing.assert_allclose(tree.predict(X), rows @ weights, atol=1e-9)
    scaled = ((Y - rows @ weights) / Y.std(axis=0)) ** 2
    np.testing.assert_allclose(tree.variances, [scaled.mean() * Y.var(axis=0)], rtol=1e-9)
    assert tree.converged and len(tree.log_likelihoods) == 2


def test_m_step_by_hand():
    """Two constant experts, posteriors 1 or 0: the means of their rows, with two rows of ridge.

    Expert 0 has the rows 2 and 4: 6 / (2 + 2) = 1.5; its variance is
    `(0.5² + 2.5² + 2·(1.5² + 1)) / (2 + 2)`. Expert 1 has the row -3: -3 / (1 + 2) = -1.
    """
    rows, targets = np.ones([3, 1]), np.array([[2.0], [4.0], [-3.0]])
    tree = MixtureTree((np.zeros([1, 1, 2]),), np.zeros([2, 1, 1]), np.ones([2, 1]))
    posteriors = np.array([[1.0, 0], [1, 0], [0, 1]])
    tree = m_step(tree, rows, targets, posteriors, Penalty(ridge=2, gate_ridge=1e-9))
    np.testing.assert_allclose(tree.expert_kernels.ravel(), [1.5, -1])
    variances = [(0.25 + 6.25 + 2 * 3.25) / 4, (4 + 2 * 2) / 3]
    np.testing.assert_allclose(tree.variances.ravel(), variances)
    gates = np.exp(tree.log_gates(rows))
    np.testing.assert_allclose(gates, [[2 / 3, 1 / 3]] * 3, atol=1e-2)


def test_expert_without_rows_keeps_a_variance():
    targets = np.array([[2.0], [4.0]])
    tree = MixtureTree((np.zeros([1, 1, 2]),), np.zeros([2, 1, 1]), np.ones([2, 1]))
    tree = m_step(tree, np.ones([2, 1]), targets, np.array([[1.0, 0]] * 2), Penalty(0.1, 0.1))
    np.testing.assert_allclose(tree.variances[1], [1])
    np.testing.assert_allclose(tree.expert_kernels[1], [[0]])


@pytest.mark.parametrize("start", [0.0, 20.0])
def test_gate_reaches_the_optimum(start):
    """The gradient of `Σ counts·ln softmax − ridge/2·‖kernel‖²` is 0 there, from a bad start too,
    and the steps never lower the objective.
    """
    rows = np.column_stack([X, np.ones(len(X))])
    counts = RNG.uniform(0, 1, (200, 3))
    ridge = 0.3

    def objective(kernel):
        logs = np.log(softmax(rows @ kernel))
        return (counts * logs).sum() - ridge / 2 * (kernel**2).sum()

    kernel = start * np.random.default_rng(2).standard_normal((4, 3))
    values = [objective(kernel)]
    for _ in range(10):
        kernel = fit_gate(rows, counts, kernel, ridge)
        values.append(objective(kernel))
    assert min(np.diff(values)) > -1e-9
    weights = counts.sum(axis=1, keepdims=True)
    gradient = rows.T @ (counts - weights * softmax(rows @ kernel)) - ridge * kernel
    np.testing.assert_allclose(gradient, 0, atol=1e-8)


@pytest.mark.parametrize("branching", [(2,), (3, 2), (2, 2, 2)])
def test_the_objective_never_decreases(branching):
    for seed, ridge in ((0, 1e-3), (1, 5.0)):
        x, y = simulated_arm(500, seed)
        tree = fit_em(x, y, branching, 12, ridge, gate_ridge=100 * ridge, tolerance=0, seed=seed)
        assert len(tree.objectives) == 13 and min(np.diff(tree.objectives)) >= -1e-9
        # The penalty itself may grow, by less than what the first passes gain.
        assert tree.log_likelihoods[-1] > tree.log_likelihoods[0] + 100
        assert tree.log_likelihood(x, y) == pytest.approx(tree.log_likelihoods[-1], rel=1e-12)


def test_the_likelihood_never_decreases_with_a_small_ridge():
    x, y = bent()
    tree = fit_em(x, y, (2, 2), ridge=1e-9, gate_ridge=1e-9, passes=15, tolerance=0)
    assert min(np.diff(tree.log_likelihoods)) > -1e-6


def test_two_lines():
    x, y = bent()
    tree = fit_em(x, y[:, 0], (2,), passes=60)
    assert tree.converged and len(tree.log_likelihoods) < 60
    np.testing.assert_allclose(sorted(tree.expert_kernels[:, 0, 0]), [-1, 1], atol=0.05)
    np.testing.assert_allclose(tree.variances, 0.05**2, rtol=0.2)
    assert (
        relative_error(y, tree.predict(x)) < 0.05 < relative_error(y, fit_em(x, y, ()).predict(x))
    )
    right = tree.gates([[0.5]]).argmax()
    assert tree.expert_kernels[right, 0, 0] > 0 and tree.gates([[-0.5]]).argmax() != right


def test_units_do_not_matter():
    x, y = bent()
    tree, other = fit_em(x, y, (2,)), fit_em(1000 * x + 5, 10 * y - 3, (2,))
    np.testing.assert_allclose(other.predict(1000 * x + 5), 10 * tree.predict(x) - 3, rtol=1e-6)
    np.testing.assert_allclose(
        np.array(tree.log_likelihoods) - len(x) * math.log(10), other.log_likelihoods, rtol=1e-6
    )


def test_a_constant_column():
    x, y = bent()
    tree = fit_em(np.column_stack([x, np.full(len(x), 0.1)]), y, (2,))
    assert tree.log_likelihoods[-1] == pytest.approx(fit_em(x, y, (2,)).log_likelihoods[-1], 1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": X[:5]}, "x and y must have equally many rows, got 5 and 200"),
        (
            {"x": np.zeros([200, 2, 2])},
            r"x must have the shape \[rows, columns\], got \(200, 2, 2\)",
        ),
        ({"y": np.full([200, 2], np.nan)}, "y must be finite"),
        ({"branching": (2, 0)}, r"branching\[1\] must be an integer of at least 1, got 0"),
        ({"branching": 4}, r"branching must be a tuple such as \(2, 2\), got 4"),
        ({"passes": 0}, "passes must be an integer of at least 1, got 0"),
        ({"ridge": 0}, "ridge must be a finite number above 0, got 0"),
        ({"gate_ridge": -1}, "gate_ridge must be a finite number above 0, got -1"),
        ({"tolerance": -1}, "tolerance must be a finite number of at least 0, got -1"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit_em(**{"x": X, "y": Y, **arguments})


def test_errors_of_a_fitted_tree():
    tree = fit_em(X, Y, (2,), passes=1)
    with pytest.raises(ValueError, match=r"x must have the shape \[rows, 3\], got \(200, 2\)"):
        tree.predict(Y)
    with pytest.raises(ValueError, match=r"y must have the shape \[rows, 2\], got \(200, 3\)"):
        tree.log_likelihood(X, X)
    with pytest.raises(ValueError, match="equally many rows, got 200 and 3"):
        tree.log_likelihood(X, Y[:3])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_simulated_arm(seed):
    """docs/guides/the_classics.md has the measured values."""
    x, y = simulated_arm(20_000, seed)

    def error(branching):
        tree = fit_em(x[:15_000], y[:15_000], branching, seed=seed)
        return relative_error(y[15_000:], tree.predict(x[15_000:]))

    assert 0.21 < error(()) < 0.24
    assert all(0.2 < error(branching) < 0.28 for branching in ((2,), (2, 2)))
    assert 0.08 < error((2, 2, 2, 2)) < 0.15
