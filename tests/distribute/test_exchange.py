import numpy as np
import tensorflow as tf

from tfmoe.distribute.exchange import AllToAll, Local, exchange
from tfmoe.ops.assignments import Assignments, assign_tokens

# Three experts on two replicas: 0 and 1 on replica 0, 2 on replica 1. Each multiplies by a factor.
FACTORS = [10.0, 100.0, 1000.0]


def run_experts(assign, tokens, weights, replica):
    """The dispatched rows and combined outputs, with gradients of the sum of all outputs.

    Args:
        assign: function of the weights that returns `Assignments`.
        tokens: `[T, 1]`.
        weights: the argument of `assign`.
        replica: the index of this replica.
    """
    with tf.GradientTape() as tape:
        tape.watch([tokens, weights])
        dispatcher = exchange(assign(weights))
        rows = dispatcher.dispatch(tokens)
        factors = tf.repeat([FACTORS[:2], FACTORS[2:]][replica], dispatcher.counts)
        results = (
            rows
            * tf.pad(factors, [[0, tf.shape(rows)[0] - tf.reduce_sum(dispatcher.counts)]])[:, None]
        )
        outputs = dispatcher.combine(results)
        loss = tf.reduce_sum(outputs)
    gradients = tape.gradient(loss, [tokens, weights])
    num_rows = tf.reduce_sum(dispatcher.counts)
    return {
        "rows": rows[:num_rows, 0],
        "weights": dispatcher.weights()[:num_rows],
        "counts": dispatcher.counts,
        "padded": tf.shape(rows)[0],
        "outputs": outputs[:, 0],
        "outputs_of_kept": dispatcher.combine(results[:num_rows])[:, 0],
        "rows_per_token": dispatcher.sum_by_token(tf.ones([num_rows])),
        "gradients": [tf.convert_to_tensor(gradient) for gradient in gradients],
    }


def k_experts_per_token(experts):
    """Assigns each token to K experts."""
    return lambda weights: assign_tokens(experts, weights, len(FACTORS))


def varying_experts_per_token(tokens, counts, num_tokens):
    """Assigns tokens to varying numbers of experts."""

    def assign(weights):
        return Assignments(
            tf.constant(tokens, tf.int32), weights, tf.constant(counts), tf.constant(num_tokens)
        )

    return assign


def check(result, **expected):
    np.testing.assert_array_equal(result["outputs"], result["outputs_of_kept"])
    for name, values in expected.items():
        np.testing.assert_allclose(result[name], values, rtol=1e-6, err_msg=name)


def test_dispatch_and_combine_by_hand(in_replicas):
    def run(r):
        tokens = [tf.constant([[1.0], [2.0], [3.0]]), tf.constant([[4.0], [5.0]])][r]
        experts = [tf.constant([[2], [0], [1]]), tf.constant([[2], [2]])][r]
        weights = [tf.constant([[0.5], [1.0], [2.0]]), tf.constant([[3.0], [4.0]])][r]
        return run_experts(k_experts_per_token(experts), tokens, weights, r)

    first, second = in_replicas(2, run)
    # Replica 0 sends 2 and 3 to itself and 1 to replica 1. Replica 1 sends both to itself: P = 2.
    check(first, rows=[2, 3], weights=[1, 2], counts=[1, 1], padded=4)
    check(second, rows=[1, 4, 5], weights=[0.5, 3, 4], counts=[3], padded=4)
    check(first, outputs=[0.5 * 1000 * 1, 1 * 10 * 2, 2 * 100 * 3], rows_per_token=[1, 1, 1])
    check(second, outputs=[3 * 1000 * 4, 4 * 1000 * 5], rows_per_token=[1, 1])
    # The gradient of a token is its weight times the factor; that of a weight is the output of the
    # expert.
    np.testing.assert_allclose(first["gradients"][0], [[500], [10], [200]])
    np.testing.assert_allclose(first["gradients"][1], [[1000], [20], [300]])
    np.testing.assert_allclose(second["gradients"][0], [[3000], [4000]])
    np.testing.assert_allclose(second["gradients"][1], [[4000], [5000]])


def test_dropped_assignments_are_not_sent(in_replicas):
    def run(r):
        tokens = [tf.constant([[1.0], [2.0]]), tf.constant([[4.0]])][r]
        experts = [tf.constant([[0, 3], [2, 0]]), tf.constant([[3, 3]])][r]  # 3: dropped
        weights = [tf.constant([[0.5, 9.0], [1.0, 2.0]]), tf.constant([[9.0, 9.0]])][r]
        return run_experts(k_experts_per_token(experts), tokens, weights, r)

    first, second = in_replicas(2, run)
    check(first, rows=[1, 2], weights=[0.5, 2], counts=[2, 0], rows_per_token=[1, 2])
    check(second, rows=[2], weights=[1], counts=[1], outputs=[0], rows_per_token=[0])
    check(first, outputs=[0.5 * 10, 1 * 1000 * 2 + 2 * 10 * 2])
    np.testing.assert_allclose(first["gradients"][0], [[0.5 * 10], [1 * 1000 + 2 * 10]])
    np.testing.assert_allclose(first["gradients"][1], [[10, 0], [2000, 20]])
    np.testing.assert_array_equal(second["gradients"][0], [[0]])
    np.testing.assert_array_equal(second["gradients"][1], [[0, 0]])


def test_a_replica_without_tokens_computes_its_experts(in_replicas):
    def run(r):
        tokens = [tf.constant([[1.0], [2.0]]), tf.zeros([0, 1])][r]
        experts = [tf.constant([[2, 0], [2, 1]]), tf.zeros([0, 2], tf.int32)][r]
        weights = [tf.constant([[1.0, 2.0], [3.0, 4.0]]), tf.zeros([0, 2])][r]
        return run_experts(k_experts_per_token(experts), tokens, weights, r)

    first, second = in_replicas(2, run)
    check(first, rows=[1, 2], weights=[2, 4], counts=[1, 1])
    check(second, rows=[1, 2], weights=[1, 3], counts=[2])
    check(first, outputs=[1 * 1000 * 1 + 2 * 10 * 1, 3 * 1000 * 2 + 4 * 100 * 2])
    assert second["outputs"].shape == (0,)
    np.testing.assert_allclose(first["gradients"][0], [[1000 + 20], [3000 + 400]])
    assert [gradient.shape for gradient in second["gradients"]] == [(0, 1), (0, 2)]


def test_an_empty_batch(in_replicas):
    def run(r):
        assign = k_experts_per_token(tf.zeros([0, 2], tf.int32))
        return run_experts(assign, tf.zeros([0, 1]), tf.zeros([0, 2]), r)

    for r, result in enumerate(in_replicas(2, run)):
        check(result, counts=[[0, 0], [0]][r], rows=[], rows_per_token=[])
        assert result["outputs"].shape == (0,)
        assert [gradient.shape for gradient in result["gradients"]] == [(0, 1), (0, 2)]


def test_varying_experts_per_token_by_hand(in_replicas):
    def run(r):
        # Replica 0: token 1 to expert 0, token 0 to experts 1 and 2. Replica 1: token 0 to 2.
        assign = [
            varying_experts_per_token([1, 0, 0], [1, 1, 1], 2),
            varying_experts_per_token([0], [0, 0, 1], 1),
        ][r]
        tokens = [tf.constant([[1.0], [2.0]]), tf.constant([[4.0]])][r]
        weights = [tf.constant([1.0, 2.0, 3.0]), tf.constant([5.0])][r]
        return run_experts(assign, tokens, weights, r)

    first, second = in_replicas(2, run)
    check(first, rows=[2, 1], weights=[1, 2], counts=[1, 1], rows_per_token=[2, 1])
    check(second, rows=[1, 4], weights=[3, 5], counts=[2], outputs=[5 * 1000 * 4])
    check(first, outputs=[2 * 100 * 1 + 3 * 1000 * 1, 1 * 10 * 2])
    np.testing.assert_allclose(first["gradients"][0], [[200 + 3000], [10]])
    np.testing.assert_allclose(first["gradients"][1], [20, 100, 1000])
    np.testing.assert_allclose(second["gradients"][0], [[5000]])
    np.testing.assert_allclose(second["gradients"][1], [4000])


def test_varying_experts_per_token_on_a_replica_without_tokens(in_replicas):
    def run(r):
        if r == 0:
            assign = varying_experts_per_token([0], [0, 0, 1], 1)
            return run_experts(assign, tf.constant([[7.0]]), tf.constant([2.0]), r)
        assign = varying_experts_per_token([], [0, 0, 0], 0)
        return run_experts(assign, tf.zeros([0, 1]), tf.zeros([0]), r)

    first, second = in_replicas(2, run)
    check(first, rows=[], counts=[0, 0], outputs=[2 * 1000 * 7], rows_per_token=[1])
    check(second, rows=[7], counts=[1], outputs=[], rows_per_token=[])
    np.testing.assert_allclose(first["gradients"][0], [[2000]])
    np.testing.assert_allclose(first["gradients"][1], [7000])
    assert [gradient.shape for gradient in second["gradients"]] == [(0, 1), (0,)]


def test_dropped_assignments_of_varying_experts_per_token_are_not_sent(in_replicas):
    def run(r):
        # Replica 0: token 1 to expert 0, token 0 to expert 2; an assignment of token 1 is dropped.
        assign = [
            varying_experts_per_token([1, 0, 1], [1, 0, 1], 2),
            varying_experts_per_token([0], [0, 0, 0], 1),
        ][r]
        tokens = [tf.constant([[1.0], [2.0]]), tf.constant([[4.0]])][r]
        weights = [tf.constant([1.0, 3.0, 9.0]), tf.constant([9.0])][r]
        return run_experts(assign, tokens, weights, r)

    first, second = in_replicas(2, run)
    check(first, rows=[2], weights=[1], counts=[1, 0], outputs=[3000, 20], rows_per_token=[1, 1])
    check(second, rows=[1], weights=[3], counts=[1], outputs=[0], rows_per_token=[0])
    np.testing.assert_allclose(first["gradients"][0], [[3000], [10]])
    np.testing.assert_allclose(first["gradients"][1], [20, 1000, 0])
    np.testing.assert_array_equal(second["gradients"][0], [[0]])
    np.testing.assert_array_equal(second["gradients"][1], [0])


def test_a_single_device_only_sorts():
    assignments = assign_tokens(tf.constant([[2], [0]]), tf.constant([[0.5], [1.0]]), 3)
    dispatcher = exchange(assignments)
    assert isinstance(dispatcher, Local)
    assert dispatcher.assignments is assignments
    rows = dispatcher.dispatch(tf.constant([[1.0], [2.0]]))
    np.testing.assert_array_equal(rows, [[2], [1]])
    np.testing.assert_array_equal(dispatcher.counts, [1, 0, 1])
    np.testing.assert_array_equal(dispatcher.weights(), [1, 0.5])
    assert tf.reduce_sum(dispatcher.counts).numpy() == 2
    np.testing.assert_array_equal(dispatcher.combine(rows), [[0.5], [2]])
    np.testing.assert_array_equal(dispatcher.sum_by_token(tf.constant([10.0, 100.0])), [100, 10])


def test_a_single_device_with_dropped_assignments():
    # Token 0 goes to expert 1 and has a dropped assignment; token 1 goes to experts 0 and 1.
    experts, weights = tf.constant([[1, 2], [0, 1]]), tf.constant([[0.5, 9.0], [1.0, 2.0]])
    dispatcher = exchange(assign_tokens(experts, weights, 2))
    assert tf.reduce_sum(dispatcher.counts).numpy() == 3
    rows = dispatcher.dispatch(tf.constant([[1.0], [2.0]]))[:3]
    np.testing.assert_array_equal(rows, [[2], [1], [2]])
    np.testing.assert_array_equal(dispatcher.combine(rows * [[10.0], [100], [100]]), [[50], [420]])
    np.testing.assert_array_equal(dispatcher.sum_by_token(tf.ones([3])), [1, 2])


def test_replicas_use_all_to_all(in_replicas):
    def run(r):
        assignments = assign_tokens(tf.constant([[r]]), tf.constant([[1.0]]), 2)
        equal = assignments._replace(rows_per_expert=tf.constant(1))
        dispatcher = exchange(equal)
        assert isinstance(dispatcher, AllToAll)
        return dispatcher.rows_per_expert, dispatcher.counts

    assert in_replicas(2, run) == [(1, [1]), (1, [1])]
