"""Dispatch of rows to experts, and the combined rows of tokens."""

import numpy as np
import pytest
import tensorflow as tf
from ops.assignments.small_assignments import EQUAL, EXPERTS, VARYING, X, check, indexed_assignments

from tfmoe.ops.assignments import Assignments, assign_tokens

# Assignments where every token selects K experts.


def test_assignments_are_sorted_by_expert_then_token():
    assignments = indexed_assignments(EXPERTS, 3)
    check(
        assignments,
        weights=[1, 2, 5, 3, 0, 4],
        tokens=[0, 1, 2, 1, 0, 2],
        slots=[[4, 0], [1, 3], [5, 2]],
        counts=[3, 1, 2],
        num_tokens=3,
    )
    np.testing.assert_array_equal(assignments.experts(), [0, 0, 0, 1, 2, 2])
    assert assignments.num_kept().numpy() == 6
    assert assignments.rows_per_expert is None


def test_dropped_assignments_are_last_and_not_counted():
    assignments = indexed_assignments(tf.constant([[3, 0], [0, 3]]), 3)
    check(
        assignments,
        weights=[1, 2, 0, 3],
        tokens=[0, 1, 0, 1],
        slots=[[2, 0], [1, 3]],
        counts=[2, 0, 0],
    )
    np.testing.assert_array_equal(assignments.experts(), [0, 0])
    assert assignments.num_kept().numpy() == 2


def test_the_sort_is_stable():
    experts = np.random.default_rng(0).integers(0, 51, (300, 4)).astype(np.int32)  # 50: dropped
    order = np.argsort(experts.ravel(), kind="stable")
    assignments = indexed_assignments(tf.constant(experts), 50)
    check(
        assignments,
        weights=order,
        tokens=order // 4,
        slots=np.argsort(order).reshape(300, 4),
        counts=np.bincount(experts.ravel(), minlength=51)[:50],
    )


def test_gradient_of_the_weights():
    weights = tf.constant([[0.5, 0.25], [1.0, 2.0], [0.0, 1.0]])
    with tf.GradientTape() as tape:
        tape.watch(weights)
        sorted_weights = assign_tokens(EXPERTS, weights, 3).weights
        total = tf.reduce_sum(sorted_weights * [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    np.testing.assert_array_equal(sorted_weights, [0.25, 1, 1, 2, 0.5, 0])
    # The sorted index of assignments 0 to 5, plus 1.
    np.testing.assert_array_equal(tape.gradient(total, weights), [[5, 1], [2, 4], [6, 3]])


def test_dispatch_copies_each_token_to_its_experts():
    rows = indexed_assignments(EXPERTS, 3).dispatch(X)
    np.testing.assert_array_equal(rows[:, 0], [1, 2, 3, 2, 1, 3])


def test_combine_by_hand():
    y = tf.constant([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]])
    weights = tf.constant([[0.5, 0.25], [1.0, 2.0], [0.0, 1.0]])
    # Token 0: 0.5 * y[4] + 0.25 * y[0]; token 1: 1 * y[1] + 2 * y[3]; token 2: 0 * y[5] + 1 * y[2].
    out = assign_tokens(EXPERTS, weights, 3).combine(y)
    np.testing.assert_array_equal(out, [[2.75], [10.0], [3.0]])


def one_hot_formula(x, weights, experts, num_experts):
    """`out[t] = sum_k weights[t, k] * (experts[t, k] + 1) * x[t]`, without dropped assignments."""
    scale = tf.reduce_sum(
        tf.one_hot(experts, num_experts, dtype=x.dtype)
        * tf.range(1, num_experts + 1, dtype=x.dtype),
        axis=2,
    )
    return x * tf.reduce_sum(weights * scale, axis=1, keepdims=True)


@pytest.mark.parametrize("compiled", [False, True])
def test_values_and_gradients_equal_the_one_hot_formula(compiled):
    tf.random.set_seed(0)
    experts = tf.random.uniform([20, 3], 0, 6, tf.int32)  # 5: dropped
    x = tf.random.normal([20, 4], dtype=tf.float64)
    weights = tf.random.normal([20, 3], dtype=tf.float64)

    def sparse(x, weights, experts):
        assignments = assign_tokens(experts, weights, 5)
        expert = tf.repeat(tf.range(6), tf.concat([assignments.counts, [60]], 0))[:60]
        scale = tf.cast((expert + 1) % 6, x.dtype)[:, None]  # 0 where dropped
        return assignments.combine(assignments.dispatch(x) * scale)

    if compiled:
        spec = tf.TensorSpec
        sparse = tf.function(
            sparse,
            [spec([None, 4], x.dtype), spec([None, 3], x.dtype), spec([None, 3], tf.int32)],
        )
    actual, expected = [], []
    for function, results in (
        (sparse, actual),
        (lambda *args: one_hot_formula(*args, 5), expected),
    ):
        with tf.GradientTape() as tape:
            tape.watch([x, weights])
            out = function(x, weights, experts)
            loss = tf.reduce_sum(out**2)
        results += [out, *tape.gradient(loss, [x, weights])]
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_dtypes_with_and_without_tokens(dtype):
    for num_tokens in (0, 3):
        x = tf.cast(X[:num_tokens], dtype)
        weights = tf.ones([num_tokens, 2], dtype)
        with tf.GradientTape() as tape:
            tape.watch([x, weights])
            assignments = assign_tokens(EXPERTS[:num_tokens], weights, 3)
            out = assignments.combine(assignments.dispatch(x))
        np.testing.assert_array_equal(tf.cast(out, tf.float32), 2 * X[:num_tokens])
        dx, dweights = tape.gradient(out, [x, weights])
        assert dx.dtype == dweights.dtype == out.dtype == tf.as_dtype(dtype)
        assert dx.shape == (num_tokens, 2)


def test_combine_casts_the_weights_to_the_dtype_of_the_rows():
    assignments = assign_tokens(EXPERTS, tf.ones([3, 2]), 3)
    out = assignments.combine(assignments.dispatch(tf.cast(X, tf.bfloat16)))
    assert out.dtype == tf.bfloat16
    np.testing.assert_array_equal(tf.cast(out, tf.float32), 2 * X)


def test_out_of_range_ids_raise_an_error():
    with pytest.raises(tf.errors.InvalidArgumentError, match="partitions"):
        indexed_assignments(tf.constant([[4, 0]]), 3)


# Assignments where the number of experts varies by token.


def test_experts_of_assignments():
    np.testing.assert_array_equal(VARYING.experts(), [0, 0, 2])
    np.testing.assert_array_equal(EQUAL.experts(), [0, 0, 1, 1])
    none = Assignments(
        tf.zeros([0], tf.int32), tf.zeros([0]), tf.zeros([3], tf.int32), tf.constant(2)
    )
    assert none.experts().shape == (0,)


def test_varying_experts_per_token_by_hand():
    rows = VARYING.dispatch(X)
    np.testing.assert_array_equal(rows[:, 0], [3, 1, 1])
    # Token 0: 0.25 * y[1] + 2 * y[2]; token 1: nothing; token 2: 0.5 * y[0].
    out = VARYING.combine(tf.constant([[1.0], [2.0], [3.0]]))
    np.testing.assert_array_equal(out, [[6.5], [0.0], [0.5]])


def test_equal_rows_per_expert_by_hand():
    x = tf.constant([[1.0], [2.0], [3.0], [4.0]])
    np.testing.assert_array_equal(EQUAL.dispatch(x), [[3.0], [1.0], [1.0], [4.0]])
    # Token 0: 0.5 * 20 + 0.25 * 30; token 2: 1 * 10; token 3: 0 * 40.
    out = EQUAL.combine(tf.constant([[10.0], [20.0], [30.0], [40.0]]))
    np.testing.assert_array_equal(out, [[17.5], [0.0], [10.0], [0.0]])


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("equal", [False, True])
def test_varying_experts_per_token_equal_the_one_hot_formula(equal, compiled):
    rng = np.random.default_rng(0)
    if equal:
        tokens = np.stack([rng.permutation(20)[:7] for _ in range(5)])
        counts = np.full(5, 7)
    else:
        mask = rng.random((5, 20)) < 0.3
        mask[1] = False
        tokens, counts = np.nonzero(mask)[1], mask.sum(axis=1)
    tokens = tf.constant(tokens.ravel(), tf.int32)
    x = tf.constant(rng.standard_normal((20, 4)))
    weights = tf.constant(rng.standard_normal(tokens.shape))
    scale = np.repeat(np.arange(1.0, 6.0), counts)

    def sparse(x, weights):
        assignments = Assignments(
            tokens,
            weights,
            tf.constant(counts, tf.int32),
            tf.constant(20),
            rows_per_expert=tf.constant(7) if equal else None,
        )
        return assignments.combine(assignments.dispatch(x) * scale[:, None])

    def one_hot(x, weights):
        one_hot_tokens = tf.one_hot(tokens, 20, dtype=x.dtype)
        return tf.einsum("at,a->t", one_hot_tokens, weights * scale)[:, None] * x

    results = []
    for function in (tf.function(sparse) if compiled else sparse, one_hot):
        with tf.GradientTape() as tape:
            tape.watch([x, weights])
            out = function(x, weights)
            loss = tf.reduce_sum(out**2)
        results.append([out, *tape.gradient(loss, [x, weights])])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(tf.convert_to_tensor(a), b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("equal", [False, True])
def test_no_assignments(equal, dtype):
    assignments = Assignments(
        tf.zeros([0], tf.int32),
        tf.zeros([0], dtype),
        tf.zeros([3], tf.int32),
        tf.constant(2),
        rows_per_expert=tf.constant(0) if equal else None,
    )
    rows = assignments.dispatch(tf.ones([2, 4], dtype))
    assert rows.shape == (0, 4)
    out = assignments.combine(rows)
    assert out.dtype == tf.as_dtype(dtype)
    np.testing.assert_array_equal(tf.cast(out, tf.float32), np.zeros((2, 4)))
