import numpy as np
import pytest
import tensorflow as tf

from tfmoe.distribute import MixedStrategy, collectives


def test_a_single_device():
    x = tf.constant([[1.0, 2.0]])
    assert (collectives.num_replicas(), collectives.replica_id()) == (1, 0)
    assert collectives.all_reduce_sum(x) is x
    assert collectives.all_to_all(x) is x
    assert collectives.all_reduce_sums(x, 2 * x)[0] is x
    np.testing.assert_array_equal(collectives.all_gather(x).numpy(), [[[1, 2]]])


def test_a_strategy_of_one_replica_runs_eagerly(strategy_of):
    result = strategy_of(1).run(lambda: (collectives.num_replicas(), collectives.replica_id()))
    assert result == (1, 0)


def all_results(r):
    """The results and gradients of every function in replica r, for values that differ by replica.

    The tests below compute them by hand for a `MixedStrategy`.
    """
    x = tf.constant([[[1.0, 2], [3, 4]], [[5, 6], [7, 8]]])[r]
    weights = tf.constant([[[1.0, 10], [100, 1000]], [[2, 20], [200, 2000]]])[r]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        sums = collectives.all_reduce_sums(x, 2.0 * x[0])
        exchanged = collectives.all_to_all(x)
        loss_of_sums = tf.reduce_sum(weights * sums[0]) + tf.reduce_sum(weights[0] * sums[1])
        loss_of_exchange = tf.reduce_sum(weights * exchanged)
        loss_of_gathered = tf.reduce_sum(x * tf.reduce_sum(collectives.all_gather(x)))
    return {
        "replica": tf.constant(collectives.replica_id()),
        "replicas": tf.constant(collectives.num_replicas()),
        "sums": sums,
        "integers": collectives.all_reduce_sum(tf.constant([2, 3])[r]),
        "exchanged": exchanged,
        "nothing": collectives.all_to_all(tf.zeros([2, 0, 3])),
        "gathered": collectives.all_gather(tf.constant([[3, 4], [5, 6]])[r]),
        "gathered nothing": collectives.all_gather(tf.zeros([0, 3])),
        "gradient of sums": tape.gradient(loss_of_sums, x),
        "gradient of exchange": tape.gradient(loss_of_exchange, x),
        "gradient of gathered": tape.gradient(loss_of_gathered, x),
    }


@pytest.mark.parametrize("eager", [True, False])
def test_another_strategy_computes_the_same(in_replicas, eager):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    shards = []

    def run():
        shards.append(collectives.shards_experts())
        return all_results(collectives.replica_id())

    results = strategy.run(run) if eager else tf.function(lambda: strategy.run(run))()
    assert shards == [False, False]
    for r, expected in enumerate(in_replicas(2, all_results)):
        actual = tf.nest.map_structure(
            lambda value, r=r: strategy.experimental_local_results(value)[r].numpy(), results
        )
        tf.nest.map_structure(np.testing.assert_array_equal, actual, expected)


def test_gradients_of_another_strategy_by_hand():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

    def run():
        r = collectives.replica_id()
        x = tf.constant([3.0, 4.0])[r]
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.constant([2.0, 5.0])[r] * collectives.all_reduce_sum(x)
        return loss, tape.gradient(loss, x)

    losses, gradients = map(strategy.experimental_local_results, strategy.run(run))
    # Losses 2·(3 + 4) and 5·(3 + 4); their sum has the derivative 2 + 5 by x of either replica.
    assert [float(loss) for loss in losses] == [14, 35]
    assert [float(gradient) for gradient in gradients] == [7, 7]


def test_outside_of_the_replicas_of_another_strategy():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        assert (collectives.num_replicas(), collectives.replica_id()) == (1, 0)
        assert float(collectives.all_reduce_sum(tf.constant(3.0))) == 3
        assert not collectives.shards_experts()


def test_shards_experts(strategy_of):
    is_sharded = {}
    for replicas in (1, 2):

        def run(replicas=replicas):
            is_sharded[replicas] = collectives.shards_experts()

        tf.function(lambda run=run, replicas=replicas: strategy_of(replicas).run(run))()
    assert is_sharded == {1: False, 2: True}
    assert not collectives.shards_experts()


def test_replica_indices(in_replicas):
    results = in_replicas(4, lambda r: (tf.constant(r), tf.constant(collectives.num_replicas())))
    assert results == [(0, 4), (1, 4), (2, 4), (3, 4)]


def test_sum_and_gather(in_replicas):
    def run(r):
        x = tf.constant([[1.0, 2.0], [10.0, 20.0]])[r]
        return collectives.all_reduce_sum(x), collectives.all_gather(x)

    for total, gathered in in_replicas(2, run):
        np.testing.assert_array_equal(total, [11, 22])
        np.testing.assert_array_equal(gathered, [[1, 2], [10, 20]])


def test_sums_of_several_tensors_keep_their_shapes(in_replicas):
    def run(r):
        scalar, matrix = tf.constant([3, 4])[r], tf.constant([[[1, 2]], [[5, 7]]])[r]
        sums = collectives.all_reduce_sums(scalar, matrix, tf.zeros([0, 2], tf.int32))
        assert [total.shape for total in sums] == [[], [1, 2], [0, 2]]
        return sums

    for scalar, matrix, empty in in_replicas(2, run):
        assert scalar == 3 + 4
        np.testing.assert_array_equal(matrix, [[1 + 5, 2 + 7]])
        assert empty.shape == (0, 2)


def test_all_to_all_of_four(in_replicas):
    # Replica r sends 10·r + i to replica i, which receives it at index r.
    results = in_replicas(4, lambda r: collectives.all_to_all(10 * r + tf.range(4)))
    for r, y in enumerate(results):
        np.testing.assert_array_equal(y, [r, 10 + r, 20 + r, 30 + r])


def test_all_to_all_of_empty_tensors(in_replicas):
    def run(r):
        x = tf.zeros([2, 0, 3])
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = collectives.all_to_all(x)
            loss = tf.reduce_sum(y)
        return y, tape.gradient(loss, x)

    for y, gradient in in_replicas(2, run):
        assert y.shape == gradient.shape == (2, 0, 3)


def test_gradient_of_a_sum_includes_the_losses_of_all_replicas(in_replicas):
    def run(r):
        x = tf.constant([3.0, 4.0])[r]
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.constant([2.0, 5.0])[r] * collectives.all_reduce_sum(x)
        return loss, tape.gradient(loss, x)

    # Losses 2·(3 + 4) and 5·(3 + 4); their sum has the derivative 2 + 5 by x of either replica.
    assert in_replicas(2, run) == [(14, 7), (35, 7)]


def test_gradient_of_several_sums(in_replicas):
    def run(r):
        x, y = tf.constant([3.0, 4.0])[r], tf.constant([[1.0], [2.0]])[r]
        with tf.GradientTape() as tape:
            tape.watch([x, y])
            x_sum, y_sum = collectives.all_reduce_sums(x, y)
            loss = tf.constant([2.0, 5.0])[r] * x_sum + 10.0 * y_sum[0]
        return tape.gradient(loss, [x, y])

    for dx, dy in in_replicas(2, run):
        assert dx == 2 + 5
        np.testing.assert_array_equal(dy, [10 + 10])


def test_all_to_all_and_its_gradient_by_hand(in_replicas):
    def run(r):
        x = tf.constant([[[1.0, 2], [3, 4]], [[5, 6], [7, 8]]])[r]
        weights = tf.constant([[[1.0, 10], [100, 1000]], [[2, 20], [200, 2000]]])[r]
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = collectives.all_to_all(x)
            loss = tf.reduce_sum(weights * y)
        return y, tape.gradient(loss, x)

    (y0, dx0), (y1, dx1) = in_replicas(2, run)
    np.testing.assert_array_equal(y0, [[1, 2], [5, 6]])
    np.testing.assert_array_equal(y1, [[3, 4], [7, 8]])
    # The rows that replica r sent to replica i were multiplied by weights[i][r].
    np.testing.assert_array_equal(dx0, [[1, 10], [2, 20]])
    np.testing.assert_array_equal(dx1, [[100, 1000], [200, 2000]])


def test_a_gathered_value_has_no_gradient(in_replicas):
    def run(r):
        x = tf.constant([2.0])
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(x * tf.reduce_sum(collectives.all_gather(x)))
        return tape.gradient(loss, x)

    np.testing.assert_array_equal(in_replicas(2, run), [[4], [4]])  # of the factor x only


@pytest.mark.parametrize(
    "function",
    [
        collectives.num_replicas,
        collectives.replica_id,
        collectives.shards_experts,
        lambda: collectives.all_reduce_sum(tf.constant(1.0)),
        lambda: collectives.all_to_all(tf.zeros([2, 1])),
        lambda: collectives.all_gather(tf.constant(1.0)),
    ],
)
def test_collectives_raise_an_error_in_eager_replicas(strategy_of, function):
    with pytest.raises(ValueError, match=r"need graph mode: call strategy.run inside a tf.fun"):
        strategy_of(2).run(function)


def test_two_strategies_in_one_process(in_replicas):
    for replicas, total in [(2, 0 + 1), (4, 0 + 1 + 2 + 3), (2, 0 + 1)]:
        sums = in_replicas(replicas, lambda r: collectives.all_reduce_sum(tf.constant(r)))
        assert sums == [total] * replicas


def test_arbitrary_devices(in_replicas):
    strategy = MixedStrategy(["CPU:3", "CPU:1"])
    results = in_replicas(strategy, lambda r: collectives.all_to_all(10 * r + tf.range(2)))
    np.testing.assert_array_equal(results, [[0, 10], [1, 11]])
