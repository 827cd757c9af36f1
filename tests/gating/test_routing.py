import numpy as np
import pytest
import tensorflow as tf

from tfmoe.gating import Groups
from tfmoe.gating.routing import global_expert_ids, sums_of
from tfmoe.ops.assignments import assign_tokens

# Token 0: experts 0 and 2 with 0.75 and 0.25. Token 1: experts 2 and 1 with 0.6 and 0.4. Token 2:
# expert 2 with 1; the other assignment is dropped.
EXPERTS = tf.constant([[0, 2], [2, 1], [2, 4]])
WEIGHTS = tf.constant([[0.75, 0.25], [0.6, 0.4], [1.0, 9.0]])


def test_sums_by_hand():
    estimate = tf.constant([[1.0, 0.0, 0.5, 0.5]] * 3)
    sums = sums_of(
        assign_tokens(EXPERTS, WEIGHTS, 4), 4, smooth_load=estimate, selected=tf.constant([1, 0, 1])
    )
    assert sums["tokens"].numpy() == 3
    np.testing.assert_allclose(sums["importance"], [0.75, 0.4, 1.85, 0.0], rtol=1e-6)
    np.testing.assert_array_equal(sums["load"], [1, 1, 3, 0])
    np.testing.assert_array_equal(sums["smooth_load"], [3, 0, 1.5, 1.5])
    assert sums["selected"].numpy() == 2
    assert {total.dtype for total in sums.values()} == {tf.float32}


def test_sums_of_groups_by_hand():
    # Group 0 has row 0, group 1 none, group 2 rows 1 and 2; two experts each.
    experts = tf.constant([[1], [4], [5]])
    assignments = assign_tokens(experts, tf.constant([[0.5], [0.25], [0.75]]), 6)
    groups = Groups(tf.constant([1, 0, 2]))
    probability = tf.constant([[0.5, 0.5], [0.75, 0.25], [0.25, 0.75]])
    sums = sums_of(assignments, 2, groups, probability=probability)
    np.testing.assert_array_equal(sums["tokens"], [1, 0, 2])
    np.testing.assert_array_equal(sums["importance"], [[0, 0.5], [0, 0], [0.25, 0.75]])
    np.testing.assert_array_equal(sums["load"], [[0, 1], [0, 0], [1, 1]])
    np.testing.assert_array_equal(sums["probability"], [[0.5, 0.5], [0, 0], [1, 1]])


def test_importance_gradient_reaches_the_weights():
    weights = tf.identity(WEIGHTS)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        importance = sums_of(assign_tokens(EXPERTS, weights, 4), 4)["importance"]
        total = tf.reduce_sum(importance * [1.0, 10.0, 100.0, 1000.0])
    np.testing.assert_allclose(tape.gradient(total, weights), [[1, 100], [100, 10], [100, 0]])


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("bfloat16", "float32"), ("float16", "float32"), ("float32", "float32"),
     ("float64", "float64")],
)  # fmt: skip
def test_sums_have_at_least_32_bits(dtype, expected):
    experts = tf.zeros([1001, 1], tf.int32)
    sums = sums_of(assign_tokens(experts, tf.ones([1001, 1], dtype), 1), 1)
    assert {total.dtype for total in sums.values()} == {tf.as_dtype(expected)}
    assert [total.numpy().item() for total in sums.values()] == [1001] * 3


def test_rows_of_groups():
    groups = Groups(tf.constant([2, 0, 1]))
    np.testing.assert_array_equal(groups.of_rows(), [0, 0, 2])
    rows = tf.constant([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]])
    np.testing.assert_array_equal(groups.sum(rows), [[11, 22], [0, 0], [100, 200]])
    np.testing.assert_array_equal(groups.sum(rows[:, 0]), [11, 0, 100])


def test_global_expert_ids():
    experts = tf.constant([[0, 2], [1, 3], [2, 0]])  # 3 drops an assignment
    assert global_expert_ids(experts, 3, None) == (experts, 3)
    ids, total = global_expert_ids(experts, 3, Groups(tf.constant([1, 0, 2])))
    assert total == 9
    np.testing.assert_array_equal(ids, [[0, 2], [7, 9], [8, 6]])
