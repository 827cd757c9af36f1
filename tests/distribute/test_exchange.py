import numpy as np
import tensorflow as tf

from tfmoe.distribute.exchange import permute, plan_exchange
from tfmoe.ops import dispatch
from tfmoe.ops.dispatch import Pairs

# Three experts on two replicas: 0 and 1 on replica 0, 2 on replica 1. An expert multiplies by:
FACTORS = [10.0, 100.0, 1000.0]


def through_experts(plan, tokens, gates, replica):
    """What travels where and what comes back, with gradients of the sum of all outputs."""
    with tf.GradientTape() as tape:
        tape.watch([tokens, gates])
        exchange = plan_exchange(plan, gates, len(FACTORS))
        rows = exchange.dispatch(tokens)
        arrived = tf.reduce_sum(exchange.counts)
        factors = tf.repeat([FACTORS[:2], FACTORS[2:]][replica], exchange.counts)
        results = rows * tf.pad(factors, [[0, tf.shape(rows)[0] - arrived]])[:, None]
        outputs = exchange.combine(results, tf.shape(tokens)[0])
        loss = tf.reduce_sum(outputs)
    return {
        "rows": rows[:arrived, 0],
        "weights": exchange.dispatch_gates()[:arrived],
        "counts": exchange.counts,
        "counts_of_all": exchange.counts_of_all,
        "padded": tf.shape(rows)[0],
        "outputs": outputs[:, 0],
        "gradients": tape.gradient(loss, [tokens, gates]),
    }


def check(found, **expected):
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, err_msg=name)


def test_rows_travel_to_their_experts_and_back(in_replicas):
    def run(r):
        tokens = [tf.constant([[1.0], [2.0], [3.0]]), tf.constant([[4.0], [5.0]])][r]
        experts = [tf.constant([[2], [0], [1]]), tf.constant([[2], [2]])][r]
        gates = [tf.constant([[0.5], [1.0], [2.0]]), tf.constant([[3.0], [4.0]])][r]
        return through_experts(dispatch.plan(experts, 3), tokens, gates, r)

    first, second = in_replicas(2, run)
    # Replica 0 sends tokens 2 and 3 to itself, 1 to replica 1; replica 1 both to itself: P = 2.
    check(first, rows=[2, 3], weights=[1, 2], counts=[1, 1], counts_of_all=[1, 1, 3], padded=4)
    check(second, rows=[1, 4, 5], weights=[0.5, 3, 4], counts=[3], counts_of_all=[1, 1, 3])
    check(first, outputs=[0.5 * 1000 * 1, 1 * 10 * 2, 2 * 100 * 3])
    check(second, outputs=[3 * 1000 * 4, 4 * 1000 * 5])
    # The gradient of a token is its gate times the factor, that of a gate the expert's result.
    np.testing.assert_allclose(first["gradients"][0], [[500], [10], [200]])
    np.testing.assert_allclose(first["gradients"][1], [[1000], [20], [300]])
    np.testing.assert_allclose(second["gradients"][0], [[3000], [4000]])
    np.testing.assert_allclose(second["gradients"][1], [[4000], [5000]])


def test_dropped_assignments_do_not_travel(in_replicas):
    def run(r):
        tokens = [tf.constant([[1.0], [2.0]]), tf.constant([[4.0]])][r]
        experts = [tf.constant([[0, 3], [2, 0]]), tf.constant([[3, 3]])][r]  # 3: dropped
        gates = [tf.constant([[0.5, 9.0], [1.0, 2.0]]), tf.constant([[9.0, 9.0]])][r]
        return through_experts(dispatch.plan(experts, 3), tokens, gates, r)

    first, second = in_replicas(2, run)
    check(first, rows=[1, 2], weights=[0.5, 2], counts=[2, 0], counts_of_all=[2, 0, 1])
    check(second, rows=[2], weights=[1], counts=[1], outputs=[0])
    check(first, outputs=[0.5 * 10, 1 * 1000 * 2 + 2 * 10 * 2])
    np.testing.assert_allclose(first["gradients"][0], [[0.5 * 10], [1 * 1000 + 2 * 10]])
    np.testing.assert_allclose(first["gradients"][1], [[10, 0], [2000, 20]])
    np.testing.assert_array_equal(second["gradients"][0], [[0]])
    np.testing.assert_array_equal(second["gradients"][1], [[0, 0]])


def test_a_replica_without_tokens_still_serves_its_experts(in_replicas):
    def run(r):
        tokens = [tf.constant([[1.0], [2.0]]), tf.zeros([0, 1])][r]
        experts = [tf.constant([[2, 0], [2, 1]]), tf.zeros([0, 2], tf.int32)][r]
        gates = [tf.constant([[1.0, 2.0], [3.0, 4.0]]), tf.zeros([0, 2])][r]
        return through_experts(dispatch.plan(experts, 3), tokens, gates, r)

    first, second = in_replicas(2, run)
    check(first, rows=[1, 2], weights=[2, 4], counts=[1, 1])
    check(second, rows=[1, 2], weights=[1, 3], counts=[2])
    check(first, outputs=[1 * 1000 * 1 + 2 * 10 * 1, 3 * 1000 * 2 + 4 * 100 * 2])
    assert second["outputs"].shape == (0,)
    np.testing.assert_allclose(first["gradients"][0], [[1000 + 20], [3000 + 400]])
    assert [each.shape for each in second["gradients"]] == [(0, 1), (0, 2)]


def test_a_batch_of_nothing(in_replicas):
    def run(r):
        plan = dispatch.plan(tf.zeros([0, 2], tf.int32), 3)
        return through_experts(plan, tf.zeros([0, 1]), tf.zeros([0, 2]), r)

    for found in in_replicas(2, run):
        check(found, counts_of_all=[0, 0, 0], padded=0)
        assert found["outputs"].shape == (0,)
        assert [each.shape for each in found["gradients"]] == [(0, 1), (0, 2)]


def test_pairs_travel(in_replicas):
    def run(r):
        # Replica 0: token 1 to expert 0, token 0 to experts 1 and 2. Replica 1: token 0 to 2.
        pairs = [
            Pairs(tf.constant([1, 0, 0]), tf.constant([1, 1, 1]), tf.constant(2)),
            Pairs(tf.constant([0]), tf.constant([0, 0, 1]), tf.constant(1)),
        ][r]
        tokens = [tf.constant([[1.0], [2.0]]), tf.constant([[4.0]])][r]
        gates = [tf.constant([1.0, 2.0, 3.0]), tf.constant([5.0])][r]
        return through_experts(pairs, tokens, gates, r)

    first, second = in_replicas(2, run)
    check(first, rows=[2, 1], weights=[1, 2], counts=[1, 1], counts_of_all=[1, 1, 2])
    check(second, rows=[1, 4], weights=[3, 5], counts=[2], outputs=[5 * 1000 * 4])
    check(first, outputs=[2 * 100 * 1 + 3 * 1000 * 1, 1 * 10 * 2])
    np.testing.assert_allclose(first["gradients"][0], [[200 + 3000], [10]])
    np.testing.assert_allclose(first["gradients"][1], [20, 100, 1000])
    np.testing.assert_allclose(second["gradients"][0], [[5000]])
    np.testing.assert_allclose(second["gradients"][1], [4000])


def test_pairs_of_a_replica_without_tokens(in_replicas):
    def run(r):
        if r == 0:
            pairs = Pairs(tf.constant([0]), tf.constant([0, 0, 1]), tf.constant(1))
            return through_experts(pairs, tf.constant([[7.0]]), tf.constant([2.0]), r)
        pairs = Pairs(tf.zeros([0], tf.int32), tf.zeros([3], tf.int32), tf.constant(0))
        return through_experts(pairs, tf.zeros([0, 1]), tf.zeros([0]), r)

    first, second = in_replicas(2, run)
    check(first, rows=[], counts=[0, 0], outputs=[2 * 1000 * 7])
    check(second, rows=[7], counts=[1], outputs=[])


def test_a_single_device_only_sorts():
    plan = dispatch.plan(tf.constant([[2], [0]]), 3)
    exchange = plan_exchange(plan, tf.constant([[0.5], [1.0]]), 3)
    assert exchange.plan is plan and exchange.arrivals is None
    rows = exchange.dispatch(tf.constant([[1.0], [2.0]]))
    np.testing.assert_array_equal(rows, [[2], [1]])
    np.testing.assert_array_equal(exchange.counts, [1, 0, 1])
    np.testing.assert_array_equal(exchange.counts_of_all, [1, 0, 1])
    np.testing.assert_array_equal(exchange.combine(rows, 2), [[0.5], [2]])


def test_permutation_and_its_gradient():
    x = tf.constant([1.0, 2.0, 3.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = permute(x, tf.constant([2, 0, 1]), tf.constant([1, 2, 0]))
        loss = tf.reduce_sum(y * [10.0, 100.0, 1000.0])
    np.testing.assert_array_equal(y, [3, 1, 2])
    np.testing.assert_array_equal(tape.gradient(loss, x), [100, 1000, 10])
