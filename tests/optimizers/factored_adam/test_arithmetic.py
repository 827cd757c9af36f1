"""Updates of factored variables and of ordinary variables."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from optimizers.factored_adam.training_steps import (
    X,
    Y,
    fit,
    make_model,
    random,
    run_steps,
    weights,
)

from tfmoe.optimizers import FactoredAdam, factoring


class TestArithmetic:
    def test_two_steps_by_hand(self, blocks):
        # β₂ = 1/2, α = 1, ε is negligible. Two experts of 2 × 2; the second has a gradient in the
        # second step only.
        first = [[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]]
        second = [[[1.0, 1.0], [1.0, 1.0]], [[2.0, 0.0], [0.0, 0.0]]]
        optimizer = FactoredAdam(1.0, beta_2=0.5, epsilon=1e-30, factored="matrices")
        after_one, after_two = run_steps(optimizer, np.zeros([2, 2, 2]), [first, second])
        # g² = [1 4; 9 16]: rows 5/2, 25/2, columns 5, 10, mean 15/2. Averages start at 0, so they
        # are half of that: rows 5/4, 25/4, columns 5/2, 5, mean 15/4.
        # V = [5/4; 25/4] × [5/2, 5] / (15/4) = [5/6 5/3; 25/6 25/3].
        # Bias correction: α · √(1 - 1/2).
        v = np.array([[5 / 6, 5 / 3], [25 / 6, 25 / 3]])
        expected = -np.sqrt(1 / 2) * np.array([[1, 2], [3, 4]]) / np.sqrt(v)
        np.testing.assert_allclose(after_one[0], expected, rtol=1e-14)
        np.testing.assert_array_equal(after_one[1], np.zeros([2, 2]))  # no gradient, no change
        # Means of g² = 1 are 1: rows (5/4 + 1) / 2 = 9/8, (25/4 + 1) / 2 = 29/8, columns
        # (5/2 + 1) / 2 = 7/4, (5 + 1) / 2 = 3, mean 19/8. Bias correction: √(1 - 1/4).
        v = np.outer([9 / 8, 29 / 8], [7 / 4, 3]) / (19 / 8)
        expected = after_one[0] - np.sqrt(3 / 4) / np.sqrt(v)
        np.testing.assert_allclose(after_two[0], expected, rtol=1e-14)
        # g² = [4 0; 0 0]: rows 2, 0 and columns 2, 0, halved 1, 0 and 1, 0; mean 1/2.
        # V = [2 0; 0 0].
        expected = [[-np.sqrt(3 / 4) * 2 / np.sqrt(2), 0], [0, 0]]
        np.testing.assert_allclose(after_two[1], expected, rtol=1e-14)

    def test_slots_by_hand(self, blocks):
        optimizer = FactoredAdam(1.0, beta_2=0.75, factored="matrices")
        gradient = np.array([[[1.0, 2.0, 3.0], [0.0, 0.0, 6.0]], [[0.0] * 3] * 2])
        (value,) = run_steps(optimizer, np.zeros([2, 2, 3]), [gradient])
        rows, columns = optimizer._factored_slots[0]
        # g² = [1 4 9; 0 0 36]: a quarter of the means 14/3, 12 and 1/2, 2, 45/2.
        np.testing.assert_allclose(rows, [[14 / 12, 3], [0, 0]], rtol=1e-14)
        np.testing.assert_allclose(columns, [[1 / 8, 1 / 2, 45 / 8], [0, 0, 0]], rtol=1e-14)
        assert np.all(value[gradient == 0] == 0)
        optimizer.apply([tf.zeros([2, 2, 3], tf.float64)])
        np.testing.assert_allclose(rows, [[14 / 16, 9 / 4], [0, 0]], rtol=1e-14)  # decayed

    @pytest.mark.parametrize("changing", ["neither", "rows", "columns"])
    def test_equals_adam_for_squared_gradients_of_rank_1(self, changing, blocks):
        # g²(t) = a_i(t) b_j(t); the average is of rank 1 if after_one factor keeps its direction.
        rng = np.random.default_rng(3)
        a, b = rng.uniform(0.1, 2, (6, 3, 4, 1)), rng.uniform(0.1, 2, (6, 3, 1, 5))
        scale = rng.uniform(0.1, 2, (6, 3, 1, 1))
        a = a if changing == "rows" else a[:1]
        b = b if changing == "columns" else b[:1]
        gradients = scale * np.sqrt(a * b) * rng.choice([-1, 1], (6, 3, 4, 5))
        arguments = {"beta_2": 0.9, "epsilon": 1e-3}
        start = random(3, 4, 5)
        factored = FactoredAdam(0.1, factored="matrices", **arguments)
        factored = run_steps(factored, start, gradients)
        adam = run_steps(keras.optimizers.Adam(0.1, beta_1=0.0, **arguments), start, gradients)
        np.testing.assert_allclose(factored, adam, rtol=1e-13, atol=1e-14)

    def test_differs_from_adam_if_both_factors_change_direction(self):
        gradients = [np.diag([1.0, 0.0]), np.diag([0.0, 1.0])]
        factored = run_steps(FactoredAdam(0.1, factored="matrices"), np.zeros([2, 2]), gradients)
        adam = run_steps(keras.optimizers.Adam(0.1, beta_1=0.0), np.zeros([2, 2]), gradients)
        assert np.abs(factored - adam).max() > 0.01

    def test_first_moment(self, blocks):
        rng = np.random.default_rng(4)
        factors = rng.uniform(0.1, 2, (3, 4, 1)) * rng.uniform(0.1, 2, (3, 1, 5))
        gradients = np.sqrt(factors) * rng.choice([-1, 1], (5, 3, 4, 5))
        gradients[2] = 0  # the momentum changes the variable without a gradient
        start = random(3, 4, 5)
        factored = FactoredAdam(0.1, factored="matrices", factored_beta_1=0.8)
        values = run_steps(factored, start, gradients)
        adam = run_steps(keras.optimizers.Adam(0.1, beta_1=0.8), start, gradients)
        np.testing.assert_allclose(values, adam, rtol=1e-12)
        assert factored._momentums[0].shape == (3, 4, 5)

    def test_matrices_are_factored_separately(self):
        gradients = random(4, 3, 2, 5)
        stack = run_steps(FactoredAdam(0.1, factored="matrices"), np.zeros([3, 2, 5]), gradients)
        for expert in range(3):
            optimizer = FactoredAdam(0.1, factored="matrices")
            alone = run_steps(optimizer, np.zeros([2, 5]), gradients[:, expert])
            np.testing.assert_allclose(stack[:, expert], alone, rtol=1e-13)

    @pytest.mark.parametrize("block", [1, 2, 3, 4])
    def test_blocks_change_nothing(self, block, monkeypatch):
        gradients = random(4, 5, 3, 6)
        gradients[:, 1] = 0
        gradients[2, 3] = 0
        gradients[0] = 0
        whole = run_steps(FactoredAdam(0.1, factored="matrices"), random(5, 3, 6), gradients)
        monkeypatch.setattr(factoring, "BLOCK_BYTES", {"CPU": block * 3 * 6 * 8, "GPU": 1})
        parts = run_steps(FactoredAdam(0.1, factored="matrices"), random(5, 3, 6), gradients)
        np.testing.assert_allclose(parts, whole, rtol=1e-14)

    def test_small_and_large_gradients(self, blocks):
        # 1e-15² · 1e-15² is 0 in float32, 1e15² · 1e15² is infinite.
        gradients = random(3, 2, 4, 5).astype("float32")
        for scale in (1e-15, 1e15):
            optimizer = FactoredAdam(0.1, factored="matrices", epsilon=1e-37)
            values = run_steps(optimizer, np.zeros([2, 4, 5]), gradients * scale, "float32")
            expected = run_steps(
                FactoredAdam(0.1, factored="matrices", epsilon=1e-37),
                np.zeros([2, 4, 5]),
                gradients,
            )
            np.testing.assert_allclose(values, expected, rtol=1e-4)

    def test_nan_is_not_hidden(self, blocks):
        gradient = np.zeros([2, 2, 2])
        gradient[1, 0, 0] = np.nan
        (value,) = run_steps(FactoredAdam(factored="matrices"), np.zeros([2, 2, 2]), [gradient])
        assert np.isnan(value[1]).any() and not np.isnan(value[0]).any()

    def test_half_precision_variables_have_float32_slots(self, blocks):
        optimizer = FactoredAdam(0.1, factored="matrices")
        variable = keras.Variable(np.ones([2, 3, 4]), dtype="bfloat16")
        for _ in range(3):
            optimizer.apply([tf.ones([2, 3, 4], tf.bfloat16)], [variable])
        assert [slot.dtype for slot in optimizer._factored_slots[0]] == ["float32", "float32"]
        # With equal gradients every step has size α.
        np.testing.assert_allclose(tf.cast(variable.value, "float32"), 0.7, atol=0.01)


class TestOrdinaryVariables:
    @pytest.mark.parametrize("shape", [(), (3,), (3, 4), (2, 3, 4)])
    def test_equal_keras_adam(self, shape):
        gradients = random(6, *shape).astype("float32")
        arguments = {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-4}
        factored = run_steps(FactoredAdam(0.1, **arguments), random(*shape), gradients, "float32")
        adam = keras.optimizers.Adam(0.1, **arguments)
        np.testing.assert_array_equal(
            factored, run_steps(adam, random(*shape), gradients, "float32")
        )

    def test_a_model_without_factored_variables(self):
        factored, adam = make_model(), make_model()
        fit(factored, FactoredAdam(0.01, factored="none"))
        fit(adam, keras.optimizers.Adam(0.01))
        for path, value in weights(adam).items():
            np.testing.assert_array_equal(weights(factored)[path], value, err_msg=path)

    def test_only_experts_differ_from_adam(self):
        factored, adam = make_model(), make_model()
        for model, optimizer in (
            (factored, FactoredAdam(0.01)),
            (adam, keras.optimizers.Adam(0.01)),
        ):
            model.compile(optimizer, "mse")
            model.train_on_batch(X, Y)
        for path, value in weights(adam).items():
            same = np.array_equal(weights(factored)[path], value)
            assert same == ("kernel" not in path or "experts" not in path), path
