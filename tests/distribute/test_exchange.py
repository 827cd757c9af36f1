import numpy as np
import tensorflow as tf

from tfmoe.distribute.exchange import AllToAll, Local, exchange
from tfmoe.ops.assignments import Assignments, assign_tokens

# Three experts on two replicas: 0 and 1 on replica 0, 2 on replica 1. An expert multiplies by:
FACTORS = [10.0, 100.0, 1000.0]


def through_experts(assign, tokens, weights, replica):
    """What travels where and what comes back, with gradients of the sum of all outputs.

    Args:
        assign: makes `Assignments` of the weights.
        tokens: `[T, 1]`.
        weights: as `assign` takes them.
        replica: the number of this replica.
    """
    with tf.GradientTape() as tape:
        tape.watch([tokens, weights])
        way = exchange(assign(weights))
        rows = way.dispatch(tokens)
        factors = tf.repeat([FACTORS[:2], FACTORS[2:]][replica], way.counts)
        results = rows * tf.pad(factors, [[0, tf.shape(rows)[0] - way.num_rows()]])[:, None]
        outputs = way.combine(results)
        loss = tf.reduce_sum(outputs)
    gradients = tape.gradient(loss, [tokens, weights])
    arrived = way.num_rows()
    return {
        "rows": rows[:arrived, 0],
        "weights": way.weights()[:arrived],
        "counts": way.counts,
        "padded": tf.shape(rows)[0],
        "outputs": outputs[:, 0],
        "outputs_of_rows": way.combine(results[:arrived])[:, 0],
        "rows_of_token": way.sum_by_token(tf.ones([arrived])),
        "gradients": [tf.convert_to_tensor(each) for each in gradients],
    }


def of_experts(experts):
    """Assigns each token to K experts."""
    return lambda weights: assign_tokens(experts, weights, len(FACTORS))


def of_tokens(tokens, counts, num_tokens):
    """Assigns tokens with differing numbers of experts."""

    def assign(weights):
        return Assignments(
            tf.constant(tokens, tf.int32), weights, tf.constant(counts), tf.constant(num_tokens)
        )

    return assign


def check(found, **expected):
    np.testing.assert_array_equal(found["outputs"], found["outputs_of_rows"])
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, err_msg=name)


def test_rows_travel_to_their_experts_and_back(in_replicas):
    def run(r):
        tokens = [tf.constant([[1.0], [2.0], [3.0]]), tf.constant([[4.0], [5.0]])][r]
        experts = [tf.constant([[2], [0], [1]]), tf.constant([[2], [2]])][r]
        weights = [tf.constant([[0.5], [1.0], [2.0]]), tf.constant([[3.0], [4.0]])][r]
        return through_experts(of_experts(experts), tokens, weights, r)

    first, second = in_replicas(2, run)
    # Replica 0 sends tokens 2 and 3 to itself, 1 to replica 1; replica 1 both to itself: P = 2.
    check(first, rows=[2, 3], weights=[1, 2], counts=[1, 1], padded=4)
    check(second, rows=[1, 4, 5], weights=[0.5, 3, 4], counts=[3], padded=4)
    check(first, outputs=[0.5 * 1000 * 1, 1 * 10 * 2, 2 * 100 * 3], rows_of_token=[1, 1, 1])
    check(second, outputs=[3 * 1000 * 4, 4 * 1000 * 5], rows_of_token=[1, 1])
    # The gradient of a token is its weight times the factor, that of a weight the expert's result.
    np.testing.assert_allclose(first["gradients"][0], [[500], [10], [200]])
    np.testing.assert_allclose(first["gradients"][1], [[1000], [20], [300]])
    np.testing.assert_allclose(second["gradients"][0], [[3000], [4000]])
    np.testing.assert_allclose(second["gradients"][1], [[4000], [5000]])


def test_dropped_assignments_do_not_travel(in_replicas):
    def run(r):
        tokens = [tf.constant([[1.0], [2.0]]), tf.constant([[4.0]])][r]
        experts = [tf.constant([[0, 3], [2, 0]]), tf.constant([[3, 3]])][r]  # 3: dropped
        weights = [tf.constant([[0.5, 9.0], [1.0, 2.0]]), tf.constant([[9.0, 9.0]])][r]
        return through_experts(of_experts(experts), tokens, weights, r)

    first, second = in_replicas(2, run)
    check(first, rows=[1, 2], weights=[0.5, 2], counts=[2, 0], rows_of_token=[1, 2])
    check(second, rows=[2], weights=[1], counts=[1], outputs=[0], rows_of_token=[0])
    check(first, outputs=[0.5 * 10, 1 * 1000 * 2 + 2 * 10 * 2])
    np.testing.assert_allclose(first["gradients"][0], [[0.5 * 10], [1 * 1000 + 2 * 10]])
    np.testing.assert_allclose(first["gradients"][1], [[10, 0], [2000, 20]])
    np.testing.assert_array_equal(second["gradients"][0], [[0]])
    np.testing.assert_array_equal(second["gradients"][1], [[0, 0]])


def test_a_replica_without_tokens_still_serves_its_experts(in_replicas):
    def run(r):
        tokens = [tf.constant([[1.0], [2.0]]), tf.zeros([0, 1])][r]
        experts = [tf.constant([[2, 0], [2, 1]]), tf.zeros([0, 2], tf.int32)][r]
        weights = [tf.constant([[1.0, 2.0], [3.0, 4.0]]), tf.zeros([0, 2])][r]
        return through_experts(of_experts(experts), tokens, weights, r)

    first, second = in_replicas(2, run)
    check(first, rows=[1, 2], weights=[2, 4], counts=[1, 1])
    check(second, rows=[1, 2], weights=[1, 3], counts=[2])
    check(first, outputs=[1 * 1000 * 1 + 2 * 10 * 1, 3 * 1000 * 2 + 4 * 100 * 2])
    assert second["outputs"].shape == (0,)
    np.testing.assert_allclose(first["gradients"][0], [[1000 + 20], [3000 + 400]])
    assert [each.shape for each in second["gradients"]] == [(0, 1), (0, 2)]


def test_a_batch_of_nothing(in_replicas):
    def run(r):
        assign = of_experts(tf.zeros([0, 2], tf.int32))
        return through_experts(assign, tf.zeros([0, 1]), tf.zeros([0, 2]), r)

    for r, found in enumerate(in_replicas(2, run)):
        check(found, counts=[[0, 0], [0]][r], rows=[], rows_of_token=[])
        assert found["outputs"].shape == (0,)
        assert [each.shape for each in found["gradients"]] == [(0, 1), (0, 2)]


def test_differing_numbers_of_experts(in_replicas):
    def run(r):
        # Replica 0: token 1 to expert 0, token 0 to experts 1 and 2. Replica 1: token 0 to 2.
        assign = [of_tokens([1, 0, 0], [1, 1, 1], 2), of_tokens([0], [0, 0, 1], 1)][r]
        tokens = [tf.constant([[1.0], [2.0]]), tf.constant([[4.0]])][r]
        weights = [tf.constant([1.0, 2.0, 3.0]), tf.constant([5.0])][r]
        return through_experts(assign, tokens, weights, r)

    first, second = in_replicas(2, run)
    check(first, rows=[2, 1], weights=[1, 2], counts=[1, 1], rows_of_token=[2, 1])
    check(second, rows=[1, 4], weights=[3, 5], counts=[2], outputs=[5 * 1000 * 4])
    check(first, outputs=[2 * 100 * 1 + 3 * 1000 * 1, 1 * 10 * 2])
    np.testing.assert_allclose(first["gradients"][0], [[200 + 3000], [10]])
    np.testing.assert_allclose(first["gradients"][1], [20, 100, 1000])
    np.testing.assert_allclose(second["gradients"][0], [[5000]])
    np.testing.assert_allclose(second["gradients"][1], [4000])


def test_differing_numbers_on_a_replica_without_tokens(in_replicas):
    def run(r):
        if r == 0:
            assign = of_tokens([0], [0, 0, 1], 1)
            return through_experts(assign, tf.constant([[7.0]]), tf.constant([2.0]), r)
        assign = of_tokens([], [0, 0, 0], 0)
        return through_experts(assign, tf.zeros([0, 1]), tf.zeros([0]), r)

    first, second = in_replicas(2, run)
    check(first, rows=[], counts=[0, 0], outputs=[2 * 1000 * 7], rows_of_token=[1])
    check(second, rows=[7], counts=[1], outputs=[], rows_of_token=[])
    np.testing.assert_allclose(first["gradients"][0], [[2000]])
    np.testing.assert_allclose(first["gradients"][1], [7000])
    assert [each.shape for each in second["gradients"]] == [(0, 1), (0,)]


def test_dropped_assignments_of_differing_numbers_do_not_travel(in_replicas):
    def run(r):
        # Replica 0: token 1 to expert 0 and token 0 to expert 2; token 1 to nothing, behind.
        assign = [of_tokens([1, 0, 1], [1, 0, 1], 2), of_tokens([0], [0, 0, 0], 1)][r]
        tokens = [tf.constant([[1.0], [2.0]]), tf.constant([[4.0]])][r]
        weights = [tf.constant([1.0, 3.0, 9.0]), tf.constant([9.0])][r]
        return through_experts(assign, tokens, weights, r)

    first, second = in_replicas(2, run)
    check(first, rows=[2], weights=[1], counts=[1, 0], outputs=[3000, 20], rows_of_token=[1, 1])
    check(second, rows=[1], weights=[3], counts=[1], outputs=[0], rows_of_token=[0])
    np.testing.assert_allclose(first["gradients"][0], [[3000], [10]])
    np.testing.assert_allclose(first["gradients"][1], [20, 1000, 0])
    np.testing.assert_array_equal(second["gradients"][0], [[0]])
    np.testing.assert_array_equal(second["gradients"][1], [0])


def test_a_single_device_only_sorts():
    assignments = assign_tokens(tf.constant([[2], [0]]), tf.constant([[0.5], [1.0]]), 3)
    way = exchange(assignments)
    assert isinstance(way, Local)
    assert way.assignments is assignments
    rows = way.dispatch(tf.constant([[1.0], [2.0]]))
    np.testing.assert_array_equal(rows, [[2], [1]])
    np.testing.assert_array_equal(way.counts, [1, 0, 1])
    np.testing.assert_array_equal(way.weights(), [1, 0.5])
    assert way.num_rows().numpy() == 2
    np.testing.assert_array_equal(way.combine(rows), [[0.5], [2]])
    np.testing.assert_array_equal(way.sum_by_token(tf.constant([10.0, 100.0])), [100, 10])


def test_a_single_device_with_dropped_assignments():
    # Token 0 to expert 1 and to none, token 1 to experts 0 and 1.
    experts, weights = tf.constant([[1, 2], [0, 1]]), tf.constant([[0.5, 9.0], [1.0, 2.0]])
    way = exchange(assign_tokens(experts, weights, 2))
    assert way.num_rows().numpy() == 3
    rows = way.dispatch(tf.constant([[1.0], [2.0]]))[:3]
    np.testing.assert_array_equal(rows, [[2], [1], [2]])
    np.testing.assert_array_equal(way.combine(rows * [[10.0], [100], [100]]), [[50], [420]])
    np.testing.assert_array_equal(way.sum_by_token(tf.ones([3])), [1, 2])


def test_the_way_between_replicas_is_all_to_all(in_replicas):
    def run(r):
        assignments = assign_tokens(tf.constant([[r]]), tf.constant([[1.0]]), 2)
        equal = assignments._replace(rows_per_expert=tf.constant(1))
        way = exchange(equal)
        assert isinstance(way, AllToAll)
        return way.rows_per_expert, way.counts

    assert in_replicas(2, run) == [(1, [1]), (1, [1])]
