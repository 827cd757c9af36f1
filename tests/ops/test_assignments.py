import numpy as np
import pytest
import tensorflow as tf

from tfmoe.ops.assignments import (
    Assignments,
    assign_mask,
    assign_tokens,
    compose,
    drop,
    permute,
    renormalised,
)

# Three tokens, two of three experts each, in assignments 0..5: experts 2 0 | 0 1 | 2 0.
# Sorted by expert, then by token: expert 0 has assignments 1, 2, 5; expert 1 has 3; expert 2 has
# 0, 4.
EXPERTS = tf.constant([[2, 0], [0, 1], [2, 0]])
X = tf.constant([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])


def numbered(experts, num_experts):
    """Assignments whose weights are their numbers, `token * K + slot`."""
    numbers = tf.range(tf.size(experts), dtype=tf.int32)
    return assign_tokens(
        experts, tf.cast(tf.reshape(numbers, tf.shape(experts)), tf.float32), num_experts
    )


def check(assignments, **expected):
    for name, values in expected.items():
        found = getattr(assignments, name)
        np.testing.assert_array_equal(found, values, err_msg=name)


# Every token selects K experts.


def test_assignments_are_sorted_by_expert_then_token():
    assignments = numbered(EXPERTS, 3)
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


def test_dropped_assignments_come_last_and_count_nowhere():
    assignments = numbered(tf.constant([[3, 0], [0, 3]]), 3)
    check(
        assignments,
        weights=[1, 2, 0, 3],
        tokens=[0, 1, 0, 1],
        slots=[[2, 0], [1, 3]],
        counts=[2, 0, 0],
    )
    np.testing.assert_array_equal(assignments.experts(), [0, 0])
    assert assignments.num_kept().numpy() == 2


def test_order_is_that_of_a_stable_sort():
    experts = np.random.default_rng(0).integers(0, 51, (300, 4)).astype(np.int32)  # 50: dropped
    order = np.argsort(experts.ravel(), kind="stable")
    assignments = numbered(tf.constant(experts), 50)
    check(
        assignments,
        weights=order,
        tokens=order // 4,
        slots=np.argsort(order).reshape(300, 4),
        counts=np.bincount(experts.ravel(), minlength=51)[:50],
    )


def test_gradient_of_the_weights_goes_to_where_they_came_from():
    weights = tf.constant([[0.5, 0.25], [1.0, 2.0], [0.0, 1.0]])
    with tf.GradientTape() as tape:
        tape.watch(weights)
        sorted_weights = assign_tokens(EXPERTS, weights, 3).weights
        total = tf.reduce_sum(sorted_weights * [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    np.testing.assert_array_equal(sorted_weights, [0.25, 1, 1, 2, 0.5, 0])
    # Sorted places of the assignments 0 to 5, plus 1.
    np.testing.assert_array_equal(tape.gradient(total, weights), [[5, 1], [2, 4], [6, 3]])


def test_dispatch_copies_each_token_to_its_experts():
    rows = numbered(EXPERTS, 3).dispatch(X)
    np.testing.assert_array_equal(rows[:, 0], [1, 2, 3, 2, 1, 3])


def test_combine_weighs_and_sums():
    y = tf.constant([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]])
    weights = tf.constant([[0.5, 0.25], [1.0, 2.0], [0.0, 1.0]])
    # Token 0: 0.5 * y[4] + 0.25 * y[0]; token 1: 1 * y[1] + 2 * y[3]; token 2: 0 * y[5] + 1 * y[2].
    out = assign_tokens(EXPERTS, weights, 3).combine(y)
    np.testing.assert_array_equal(out, [[2.75], [10.0], [3.0]])


def one_hot_formula(x, weights, experts, num_experts):
    """`out[t] = sum_k weights[t, k] * (experts[t, k] + 1) * x[t]`; a dropped one adds nothing."""
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
    got, expected = [], []
    for function, results in (
        (sparse, got),
        (lambda *args: one_hot_formula(*args, 5), expected),
    ):
        with tf.GradientTape() as tape:
            tape.watch([x, weights])
            out = function(x, weights, experts)
            loss = tf.reduce_sum(out**2)
        results += [out, *tape.gradient(loss, [x, weights])]
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_types_and_no_tokens(dtype):
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


def test_weights_are_of_the_type_of_the_rows_in_combine():
    assignments = assign_tokens(EXPERTS, tf.ones([3, 2]), 3)
    out = assignments.combine(assignments.dispatch(tf.cast(X, tf.bfloat16)))
    assert out.dtype == tf.bfloat16
    np.testing.assert_array_equal(tf.cast(out, tf.float32), 2 * X)


def test_ids_out_of_range_are_an_error():
    with pytest.raises(tf.errors.InvalidArgumentError, match="partitions"):
        numbered(tf.constant([[4, 0]]), 3)


# Tokens with differing numbers of experts.

# Expert 0 has tokens 2 and 0, expert 1 none, expert 2 token 0; token 1 has no expert.
DIFFERING = Assignments(
    tokens=tf.constant([2, 0, 0]),
    weights=tf.constant([0.5, 0.25, 2.0]),
    counts=tf.constant([2, 0, 1]),
    num_tokens=tf.constant(3),
)
# Two tokens for each of two experts: expert 0 has 2 and 0, expert 1 has 0 and 3.
EQUAL = Assignments(
    tokens=tf.constant([2, 0, 0, 3]),
    weights=tf.constant([1.0, 0.5, 0.25, 0.0]),
    counts=tf.constant([2, 2]),
    num_tokens=tf.constant(4),
    rows_per_expert=tf.constant(2),
)


def test_experts_of_assignments():
    np.testing.assert_array_equal(DIFFERING.experts(), [0, 0, 2])
    np.testing.assert_array_equal(EQUAL.experts(), [0, 0, 1, 1])
    none = Assignments(
        tf.zeros([0], tf.int32), tf.zeros([0]), tf.zeros([3], tf.int32), tf.constant(2)
    )
    assert none.experts().shape == (0,)


def test_differing_numbers_by_hand():
    rows = DIFFERING.dispatch(X)
    np.testing.assert_array_equal(rows[:, 0], [3, 1, 1])
    # Token 0: 0.25 * y[1] + 2 * y[2]; token 1: nothing; token 2: 0.5 * y[0].
    out = DIFFERING.combine(tf.constant([[1.0], [2.0], [3.0]]))
    np.testing.assert_array_equal(out, [[6.5], [0.0], [0.5]])


def test_equal_numbers_by_hand():
    x = tf.constant([[1.0], [2.0], [3.0], [4.0]])
    np.testing.assert_array_equal(EQUAL.dispatch(x), [[3.0], [1.0], [1.0], [4.0]])
    # Token 0: 0.5 * 20 + 0.25 * 30; token 2: 1 * 10; token 3: 0 * 40.
    out = EQUAL.combine(tf.constant([[10.0], [20.0], [30.0], [40.0]]))
    np.testing.assert_array_equal(out, [[17.5], [0.0], [10.0], [0.0]])


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("equal", [False, True])
def test_differing_numbers_have_the_values_and_gradients_of_the_one_hot_formula(equal, compiled):
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
        places = tf.one_hot(tokens, 20, dtype=x.dtype)
        return tf.einsum("at,a->t", places, weights * scale)[:, None] * x

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


# Sums, and the order of tokens.


def test_sums_by_expert_leave_out_what_is_dropped():
    # Expert 0 has the assignments 1 and 2; 0 and 3 are dropped.
    assignments = numbered(tf.constant([[3, 0], [0, 3]]), 3)
    values = tf.constant([1.0, 10.0, 100.0, 1000.0])
    np.testing.assert_array_equal(assignments.sum_by_expert(values), [11, 0, 0])
    np.testing.assert_array_equal(DIFFERING.sum_by_expert(values[:3]), [11, 0, 100])


def test_gradient_of_sums_by_expert():
    weights = tf.constant([[0.75, 0.25], [0.6, 0.4]])
    with tf.GradientTape() as tape:
        tape.watch(weights)
        assignments = assign_tokens(tf.constant([[0, 2], [2, 3]]), weights, 3)  # 3: dropped
        sums = assignments.sum_by_expert(assignments.weights)
        weighted = tf.reduce_sum(sums * [1.0, 10.0, 100.0])
    np.testing.assert_allclose(sums, [0.75, 0, 0.85], rtol=1e-6)
    np.testing.assert_array_equal(tape.gradient(weighted, weights), [[1, 100], [100, 0]])


def test_sums_by_token():
    values = tf.constant([1.0, 10.0, 100.0, 1000.0, 1e4, 1e5])
    # Places of the tokens' assignments: 4 and 0, 1 and 3, 5 and 2.
    assignments = numbered(EXPERTS, 3)
    np.testing.assert_array_equal(assignments.sum_by_token(values), [10001, 1010, 100100])
    rows = tf.stack([values, -values], axis=1)
    expected = [[10001, -10001], [1010, -1010], [100100, -100100]]
    np.testing.assert_array_equal(assignments.sum_by_token(rows), expected)
    np.testing.assert_array_equal(DIFFERING.sum_by_token(values[:3]), [110, 0, 1])


def by_token(assignments):
    return [each.numpy().tolist() for each in assignments.by_token()]


def test_by_token_of_k_experts_per_token():
    experts, weights = tf.constant([[2, 0], [1, 2]]), tf.constant([[0.75, 0.25], [0.5, 0.5]])
    tokens, experts, weights = by_token(assign_tokens(experts, weights, 3))
    assert (tokens, experts, weights) == ([0, 0, 1, 1], [0, 2, 1, 2], [0.25, 0.75, 0.5, 0.5])


def test_by_token_of_differing_numbers_is_in_the_order_of_tokens_then_experts():
    # Expert 0 has tokens 3 and 1, expert 1 none, expert 2 tokens 1 and 0.
    assignments = Assignments(
        tf.constant([3, 1, 1, 0]),
        tf.constant([1.0, 0.25, 0.75, 0.5]),
        tf.constant([2, 0, 2]),
        tf.constant(4),
    )
    tokens, experts, weights = by_token(assignments)
    assert (tokens, experts, weights) == ([0, 1, 1, 3], [2, 0, 2, 0], [0.5, 0.25, 0.75, 1.0])


def test_by_token_of_equally_many_of_each_expert():
    assignments = EQUAL._replace(
        tokens=tf.constant([3, 1, 1, 0]), weights=tf.constant([1.0, 0.25, 0.75, 0.5])
    )
    tokens, experts, weights = by_token(assignments)
    assert (tokens, experts, weights) == ([0, 1, 1, 3], [1, 0, 1, 0], [0.5, 0.25, 0.75, 1.0])


def test_by_token_leaves_out_what_is_dropped():
    tokens, experts, weights = by_token(numbered(tf.constant([[3, 0], [1, 3], [3, 3]]), 3))
    assert (tokens, experts, weights) == ([0, 1], [0, 1], [1.0, 2.0])


# Masks.

PROBABILITY = tf.constant([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6]])


def test_mask_by_hand():
    mask = tf.constant([[True, True], [False, False], [False, True], [True, True]])
    assignments = assign_mask(mask, PROBABILITY)
    check(assignments, tokens=[0, 3, 0, 2, 3], counts=[2, 3], num_tokens=4)
    np.testing.assert_allclose(assignments.weights, [0.1, 0.4, 0.9, 0.7, 0.6])
    assert assignments.slots is None
    assert assignments.counts.shape == (2,)


def test_gradient_of_a_mask_goes_to_the_probabilities_that_it_selects():
    mask = tf.constant([[True, True], [False, False], [False, True], [True, True]])
    probability = tf.identity(PROBABILITY)
    with tf.GradientTape() as tape:
        tape.watch(probability)
        weights = assign_mask(mask, probability).weights
        total = tf.reduce_sum(weights * [1.0, 2.0, 3.0, 4.0, 5.0])
    gradient = tf.convert_to_tensor(tape.gradient(total, probability))
    np.testing.assert_array_equal(gradient, [[1, 3], [0, 0], [0, 4], [2, 5]])


def test_mask_with_experts_of_groups():
    # Rows 0 and 1 are of group 0 (experts 0, 1), row 2 of group 1, none of 2, row 3 of group 3.
    mask = tf.constant([[False, True], [True, True], [True, False], [True, True]])
    assignments = assign_mask(mask, PROBABILITY, tf.constant([0, 0, 2, 6]), 8)
    check(assignments, tokens=[1, 0, 1, 2, 3, 3], counts=[1, 2, 1, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(assignments.experts(), [0, 1, 1, 2, 6, 7])
    np.testing.assert_allclose(assignments.weights, [0.2, 0.9, 0.8, 0.3, 0.4, 0.6])


@pytest.mark.parametrize("num_tokens", [0, 3])
def test_mask_that_selects_nothing(num_tokens):
    assignments = assign_mask(tf.zeros([num_tokens, 2], tf.bool), tf.ones([num_tokens, 2]), 0, 2)
    assert assignments.tokens.shape == assignments.weights.shape == (0,)
    check(assignments, counts=[0, 0], num_tokens=num_tokens)


# Weights of a token that sum to 1.


def test_renormalised_by_hand():
    # Token 0 has 0.25 and 2, token 1 nothing, token 2 has 0.5.
    found = renormalised(DIFFERING)
    np.testing.assert_allclose(found.weights, [1, 0.25 / 2.25, 2 / 2.25], rtol=1e-6)
    check(found, tokens=[2, 0, 0], counts=[2, 0, 1])
    # Tokens 0 to 2 have the weights 0 and 1, 2 and 3, 4 and 5.
    found = renormalised(numbered(EXPERTS, 3))
    expected = [1, 2 / 5, 5 / 9, 3 / 5, 0, 4 / 9]
    np.testing.assert_allclose(found.weights, expected, rtol=1e-6)


def test_renormalised_weights_of_zero_stay_zero():
    found = renormalised(DIFFERING._replace(weights=tf.constant([0.0, 0.25, 0.75])))
    np.testing.assert_array_equal(found.weights, [0, 0.25, 0.75])


def test_gradient_of_renormalised_weights():
    # a / (a + b): b / (a + b)² and -a / (a + b)², here of a = 0.25 and b = 0.75.
    weights = tf.constant([0.5, 0.25, 0.75], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        first_two = renormalised(DIFFERING._replace(weights=weights)).weights[:2]
    gradient = tf.convert_to_tensor(tape.gradient(first_two, weights))
    np.testing.assert_allclose(gradient, [0, 0.75, -0.25], atol=1e-12)


# Dropping.


def test_drop_of_k_experts_per_token_by_hand():
    # Sorted: assignments 1, 2, 5 of expert 0, 3 of expert 1, 0, 4 of expert 2.
    kept = tf.constant([True, False, True, False, True, True])
    found = drop(numbered(EXPERTS, 3), kept)
    check(
        found,
        weights=[1, 5, 0, 4, 2, 3],
        tokens=[0, 2, 0, 2, 1, 1],
        counts=[2, 0, 2],
        slots=[[2, 0], [4, 5], [3, 1]],
        num_tokens=3,
    )
    assert found.num_kept().numpy() == 4
    np.testing.assert_array_equal(found.experts(), [0, 0, 2, 2])
    # Token 0: 0 · y[2] + 1 · y[0]; token 1: nothing; token 2: 4 · y[3] + 5 · y[1].
    y = tf.constant([[1.0], [10.0], [100.0], [1000.0], [0.0], [0.0]])
    np.testing.assert_array_equal(found.combine(y), [[1], [0], [4050]])


def test_drop_twice_is_to_drop_both():
    first = drop(numbered(EXPERTS, 3), tf.constant([True, False, True, True, True, True]))
    # 1, 5 | 3 | 0, 4 and behind them 2.
    found = drop(first, tf.constant([False, True, True, True, False, False]))
    check(found, weights=[5, 3, 0, 1, 4, 2], counts=[1, 1, 1], slots=[[2, 3], [5, 1], [4, 0]])


def test_drop_of_differing_numbers_by_hand():
    found = drop(DIFFERING, tf.constant([False, True, True]))
    check(found, tokens=[0, 0, 2], weights=[0.25, 2, 0.5], counts=[1, 0, 1])
    assert found.slots is None
    # Token 0: 0.25 · 1 + 2 · 10; the row of token 2 is dropped.
    out = found.combine(tf.constant([[1.0], [10.0], [0.0]]))
    np.testing.assert_array_equal(out, [[20.25], [0], [0]])


def test_after_a_drop_experts_have_no_equal_numbers_of_rows():
    found = drop(EQUAL, tf.constant([True, True, True, False]))
    assert found.rows_per_expert is None
    check(found, counts=[2, 1], tokens=[2, 0, 0, 3])


@pytest.mark.parametrize("slots", [False, True])
def test_drop_nothing_or_everything(slots):
    assignments = numbered(EXPERTS, 3)
    assignments = assignments if slots else assignments._replace(slots=None)
    same = drop(assignments, tf.ones([6], tf.bool))
    for a, b in zip(same, assignments, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a, b)
    none = drop(assignments, tf.zeros([6], tf.bool))
    check(none, counts=[0, 0, 0], weights=assignments.weights)
    np.testing.assert_array_equal(none.combine(tf.zeros([6, 2])), np.zeros([3, 2]))


def test_drop_keeps_gradients_of_what_stays():
    x, weights = tf.identity(X), tf.constant([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    with tf.GradientTape() as tape:
        tape.watch([x, weights])
        kept = tf.constant([True, False, True, False, True, True])
        assignments = drop(assign_tokens(EXPERTS, weights, 3), kept)
        is_kept = tf.sequence_mask(assignments.num_kept(), 6, tf.float32)
        total = tf.reduce_sum(assignments.combine(assignments.dispatch(x) * is_kept[:, None]))
    dx, dweights = tape.gradient(total, [x, weights])
    # Token 1 has lost both of its experts; 11, 22 and 33 are the sums of the rows.
    np.testing.assert_array_equal(dx, [[3, 3], [0, 0], [11, 11]])
    np.testing.assert_array_equal(dweights, [[11, 11], [0, 0], [33, 33]])


# Two levels.


def test_compose_by_hand():
    # Two groups of two experts. Group 0 has tokens 2 and 0, group 1 tokens 0 and 1: rows 0 to 3.
    outer = Assignments(
        tokens=tf.constant([2, 0, 0, 1]),
        weights=tf.constant([0.5, 0.25, 0.75, 1.0]),
        counts=tf.constant([2, 2]),
        num_tokens=tf.constant(3),
    )
    # Expert 0 has rows 0 and 1, expert 1 row 1, expert 2 none, expert 3 rows 2 and 3.
    inner = Assignments(
        tokens=tf.constant([0, 1, 1, 2, 3]),
        weights=tf.constant([1.0, 0.2, 0.8, 0.6, 0.4]),
        counts=tf.constant([2, 1, 0, 2]),
        num_tokens=tf.constant(4),
    )
    found = compose(outer, inner)
    check(found, tokens=[2, 0, 0, 0, 1], counts=[2, 1, 0, 2], num_tokens=3)
    np.testing.assert_allclose(found.weights, [0.5, 0.05, 0.2, 0.45, 0.4], rtol=1e-6)
    # Token 0: 0.05 · y[1] + 0.2 · y[2] + 0.45 · y[3].
    y = tf.constant([[1.0], [10.0], [100.0], [1000.0], [1e4]])
    np.testing.assert_allclose(found.combine(y), [[470.5], [4000], [0.5]], rtol=1e-6)


def test_compose_leaves_out_rows_that_the_outer_level_drops():
    # Of tokens 0 and 1 the second goes to no group.
    outer = assign_tokens(tf.constant([[1], [2]]), tf.constant([[0.5], [0.25]]), 2)
    inner = assign_tokens(tf.constant([[3, 2]]), tf.constant([[0.75, 0.25]]), 4)
    found = compose(outer, inner)
    assert by_token(found) == [[0, 0], [2, 3], [0.125, 0.375]]
    assert found.num_tokens.numpy() == 2
    np.testing.assert_array_equal(found.combine(tf.constant([[8.0], [16.0]])), [[7], [0]])


def test_gradient_of_composed_weights_is_that_of_a_product():
    of_groups, within = tf.constant([[0.5], [0.25]]), tf.constant([[0.75], [2.0]])
    with tf.GradientTape() as tape:
        tape.watch([of_groups, within])
        outer = assign_tokens(tf.constant([[1], [0]]), of_groups, 2)  # rows: tokens 1, 0
        inner = assign_tokens(tf.constant([[0], [1]]), within, 2)
        found = compose(outer, inner)
        total = tf.reduce_sum(found.weights * [1.0, 10.0])
    np.testing.assert_array_equal(found.weights, [0.25 * 0.75, 0.5 * 2])
    gradients = [
        tf.convert_to_tensor(each).numpy() for each in tape.gradient(total, [of_groups, within])
    ]
    np.testing.assert_array_equal(gradients[0], [[10 * 2], [0.75]])
    np.testing.assert_array_equal(gradients[1], [[0.25], [10 * 0.5]])


def test_permutation_and_its_gradient():
    x = tf.constant([1.0, 2.0, 3.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = permute(x, tf.constant([2, 0, 1]), tf.constant([1, 2, 0]))
        loss = tf.reduce_sum(y * [10.0, 100.0, 1000.0])
    np.testing.assert_array_equal(y, [3, 1, 2])
    np.testing.assert_array_equal(tape.gradient(loss, x), [100, 1000, 10])
