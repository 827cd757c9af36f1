import numpy as np
import pytest
import tensorflow as tf

from tfmoe.ops import dispatch

# Three tokens, two of three experts each, in assignments 0..5: experts 2 0 | 0 1 | 2 0.
# Sorted by expert, then by token: expert 0 has assignments 1, 2, 5; expert 1 has 3; expert 2 has
# 0, 4.
EXPERTS = tf.constant([[2, 0], [0, 1], [2, 0]])
X = tf.constant([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])


def test_plan_sorts_by_expert_then_token():
    plan = dispatch.plan(EXPERTS, 3)
    np.testing.assert_array_equal(plan.order, [1, 2, 5, 3, 0, 4])
    np.testing.assert_array_equal(plan.inverse, [[4, 0], [1, 3], [5, 2]])
    np.testing.assert_array_equal(plan.counts, [3, 1, 2])


def test_plan_puts_dropped_assignments_last_and_counts_them_nowhere():
    plan = dispatch.plan(tf.constant([[3, 0], [0, 3]]), 3)
    np.testing.assert_array_equal(plan.order, [1, 2, 0, 3])
    np.testing.assert_array_equal(plan.inverse, [[2, 0], [1, 3]])
    np.testing.assert_array_equal(plan.counts, [2, 0, 0])


def test_plan_agrees_with_a_stable_sort():
    experts = np.random.default_rng(0).integers(0, 51, (300, 4)).astype(np.int32)  # 50: dropped
    plan = dispatch.plan(tf.constant(experts), 50)
    order = np.argsort(experts.ravel(), kind="stable")
    np.testing.assert_array_equal(plan.order, order)
    np.testing.assert_array_equal(tf.reshape(plan.inverse, [-1]), np.argsort(order))
    np.testing.assert_array_equal(plan.counts, np.bincount(experts.ravel(), minlength=51)[:50])


def test_dispatch_copies_each_token_to_its_experts():
    rows = dispatch.dispatch(X, dispatch.plan(EXPERTS, 3))
    np.testing.assert_array_equal(rows[:, 0], [1, 2, 3, 2, 1, 3])


def test_combine_weighs_and_sums():
    y = tf.constant([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]])
    gates = tf.constant([[0.5, 0.25], [1.0, 2.0], [0.0, 1.0]])
    # Token 0: 0.5 * y[4] + 0.25 * y[0]; token 1: 1 * y[1] + 2 * y[3]; token 2: 0 * y[5] + 1 * y[2].
    out = dispatch.combine(y, gates, dispatch.plan(EXPERTS, 3))
    np.testing.assert_array_equal(out, [[2.75], [10.0], [3.0]])


def one_hot_formula(x, gates, experts, num_experts):
    """`out[t] = sum_k gates[t, k] * (experts[t, k] + 1) * x[t]`; a dropped one adds nothing."""
    scale = tf.reduce_sum(
        tf.one_hot(experts, num_experts, dtype=x.dtype)
        * tf.range(1, num_experts + 1, dtype=x.dtype),
        axis=2,
    )
    return x * tf.reduce_sum(gates * scale, axis=1, keepdims=True)


@pytest.mark.parametrize("compiled", [False, True])
def test_values_and_gradients_equal_the_one_hot_formula(compiled):
    tf.random.set_seed(0)
    experts = tf.random.uniform([20, 3], 0, 6, tf.int32)  # 5: dropped
    x = tf.random.normal([20, 4], dtype=tf.float64)
    gates = tf.random.normal([20, 3], dtype=tf.float64)

    def sparse(x, gates, experts):
        plan = dispatch.plan(experts, 5)
        expert = tf.repeat(tf.range(6), tf.concat([plan.counts, [60]], 0))[:60]
        scale = tf.cast((expert + 1) % 6, x.dtype)[:, None]  # 0 where dropped
        return dispatch.combine(dispatch.dispatch(x, plan) * scale, gates, plan)

    if compiled:
        spec = tf.TensorSpec
        sparse = tf.function(
            sparse,
            [spec([None, 4], x.dtype), spec([None, 3], x.dtype), spec([None, 3], tf.int32)],
        )
    got, expected = [], []
    for function, results in (
        (sparse, got),
        (lambda *args: one_hot_formula(*args, 5), expected),
    ):
        with tf.GradientTape() as tape:
            tape.watch([x, gates])
            out = function(x, gates, experts)
            loss = tf.reduce_sum(out**2)
        results += [out, *tape.gradient(loss, [x, gates])]
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_types_and_no_tokens(dtype):
    for num_tokens in (0, 3):
        plan = dispatch.plan(EXPERTS[:num_tokens], 3)
        x = tf.cast(X[:num_tokens], dtype)
        gates = tf.ones([num_tokens, 2], dtype)
        with tf.GradientTape() as tape:
            tape.watch([x, gates])
            out = dispatch.combine(dispatch.dispatch(x, plan), gates, plan)
        np.testing.assert_array_equal(tf.cast(out, tf.float32), 2 * X[:num_tokens])
        dx, dgates = tape.gradient(out, [x, gates])
        assert dx.dtype == dgates.dtype == out.dtype == tf.as_dtype(dtype)
        assert dx.shape == (num_tokens, 2)


def test_ids_out_of_range_are_an_error():
    with pytest.raises(tf.errors.InvalidArgumentError, match="partitions"):
        dispatch.plan(tf.constant([[4, 0]]), 3)


# Pairs: expert 0 has tokens 2 and 0, expert 1 none, expert 2 token 0; token 1 has no expert.
PAIRS = dispatch.Pairs(tf.constant([2, 0, 0]), tf.constant([2, 0, 1]), tf.constant(3))
# Two tokens for each of two experts: expert 0 has 2 and 0, expert 1 has 0 and 3.
EQUAL_PAIRS = dispatch.Pairs(tf.constant([[2, 0], [0, 3]]), tf.constant([2, 2]), tf.constant(4))


def test_experts_of_pairs():
    np.testing.assert_array_equal(PAIRS.experts(), [0, 0, 2])
    np.testing.assert_array_equal(EQUAL_PAIRS.experts(), [0, 0, 1, 1])
    none = dispatch.Pairs(tf.zeros([0], tf.int32), tf.zeros([3], tf.int32), tf.constant(2))
    assert none.experts().shape == (0,)


def test_pairs_by_hand():
    rows = dispatch.dispatch(X, PAIRS)
    np.testing.assert_array_equal(rows[:, 0], [3, 1, 1])
    gates = tf.constant([0.5, 0.25, 2.0])
    # Token 0: 0.25 * y[1] + 2 * y[2]; token 1: nothing; token 2: 0.5 * y[0].
    out = dispatch.combine(tf.constant([[1.0], [2.0], [3.0]]), gates, PAIRS)
    np.testing.assert_array_equal(out, [[6.5], [0.0], [0.5]])


def test_equal_pairs_by_hand():
    x = tf.constant([[1.0], [2.0], [3.0], [4.0]])
    rows = dispatch.dispatch(x, EQUAL_PAIRS)
    np.testing.assert_array_equal(rows, [[[3.0], [1.0]], [[1.0], [4.0]]])
    gates = tf.constant([[1.0, 0.5], [0.25, 0.0]])
    # Token 0: 0.5 * 20 + 0.25 * 30; token 2: 1 * 10; token 3: 0 * 40.
    y = tf.constant([[[10.0], [20.0]], [[30.0], [40.0]]])
    out = dispatch.combine(y, gates, EQUAL_PAIRS)
    np.testing.assert_array_equal(out, [[17.5], [0.0], [10.0], [0.0]])


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("equal", [False, True])
def test_pairs_have_the_values_and_gradients_of_the_one_hot_formula(equal, compiled):
    rng = np.random.default_rng(0)
    if equal:
        tokens = np.stack([rng.permutation(20)[:7] for _ in range(5)])
        counts = np.full(5, 7)
    else:
        mask = rng.random((5, 20)) < 0.3
        mask[1] = False
        tokens, counts = np.nonzero(mask)[1], mask.sum(axis=1)
    pairs = dispatch.Pairs(
        tf.constant(tokens, tf.int32), tf.constant(counts, tf.int32), tf.constant(20)
    )
    x = tf.constant(rng.standard_normal((20, 4)))
    gates = tf.constant(rng.standard_normal(tokens.shape))
    scale = np.repeat(np.arange(1.0, 6.0), counts).reshape(tokens.shape)

    def sparse(x, gates):
        rows = dispatch.dispatch(x, pairs) * scale[..., None]
        return dispatch.combine(rows, gates, pairs)

    def one_hot(x, gates):
        places = tf.one_hot(tf.reshape(pairs.tokens, [-1]), 20, dtype=x.dtype)
        return tf.einsum("at,a->t", places, tf.reshape(gates * scale, [-1]))[:, None] * x

    results = []
    for function in (tf.function(sparse) if compiled else sparse, one_hot):
        with tf.GradientTape() as tape:
            tape.watch([x, gates])
            out = function(x, gates)
            loss = tf.reduce_sum(out**2)
        results.append([out, *tape.gradient(loss, [x, gates])])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(tf.convert_to_tensor(a), b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_pairs_without_any(shape, dtype):
    pairs = dispatch.Pairs(tf.zeros(shape, tf.int32), tf.zeros([3], tf.int32), tf.constant(2))
    rows = dispatch.dispatch(tf.ones([2, 4], dtype), pairs)
    assert rows.shape == (*shape, 4)
    out = dispatch.combine(rows, tf.zeros(shape, dtype), pairs)
    assert out.dtype == tf.as_dtype(dtype)
    np.testing.assert_array_equal(tf.cast(out, tf.float32), np.zeros((2, 4)))
