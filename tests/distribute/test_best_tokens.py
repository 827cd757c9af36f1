import numpy as np
import pytest
import tensorflow as tf

from tfmoe.distribute.best_tokens import best_tokens, taken_of_candidates
from tfmoe.gating import Groups

# Three experts, the best two values of each on either replica.
BEST = np.array(
    [
        [[0.9, 0.5], [0.4, 0.3], [0.5, 0.2]],
        [[0.8, 0.7], [0.6, 0.1], [0.5, 0.5]],
    ],
    np.float32,
)


@pytest.mark.parametrize(
    ("num_taken", "expected"),
    [
        (1, [[1, 0, 1], [0, 1, 0]]),  # of expert 2 the equal value of replica 0 counts first
        (2, [[1, 1, 1], [1, 1, 1]]),
        (3, [[1, 2, 1], [2, 1, 2]]),  # .9 .8 .7; .6 .4 .3; .5 .5 .5
        (4, [[2, 2, 2], [2, 2, 2]]),
        (0, [[0, 0, 0], [0, 0, 0]]),
    ],
)
def test_by_hand(in_replicas, num_taken, expected):
    found = in_replicas(2, lambda r: taken_of_candidates(tf.constant(BEST[r]), num_taken))
    np.testing.assert_array_equal(found, expected)


def test_places_that_a_replica_cannot_fill_are_never_taken(in_replicas):
    # Replica 1 has a single token: its second candidates are -1, as `best_tokens` marks them.
    best = BEST.copy()
    best[1, :, 1] = -1
    found = in_replicas(2, lambda r: taken_of_candidates(tf.constant(best[r]), 3))
    np.testing.assert_array_equal(found, [[2, 2, 2], [1, 1, 1]])


def test_no_candidates(in_replicas):
    found = in_replicas(2, lambda r: taken_of_candidates(tf.zeros([3, 0]), tf.constant(0)))
    np.testing.assert_array_equal(found, np.zeros([2, 3]))


def test_more_replicas_than_experts(in_replicas):
    # One expert: replica 0 holds it, and the others nothing. .9 and .8 are of replicas 3 and 1.
    best = np.array([0.1, 0.8, 0.7, 0.9], np.float32)
    found = in_replicas(4, lambda r: taken_of_candidates(tf.constant(best[r])[None, None], 2))
    np.testing.assert_array_equal(found, [[0], [1], [0], [1]])


def test_a_single_device_takes_all():
    np.testing.assert_array_equal(taken_of_candidates(tf.constant(BEST[0]), 2), [2, 2, 2])


# The best tokens themselves.

# Five tokens, two experts.
PROBABILITY = np.array([[0.1, 0.9], [0.5, 0.5], [0.8, 0.2], [0.5, 0.5], [0.7, 0.3]], np.float32)


def arrays(assignments):
    fields = ("tokens", "weights", "counts", "num_tokens")
    return {name: getattr(assignments, name) for name in fields}


def test_best_tokens_of_one_device_by_hand():
    # C = ⌈1·5/2⌉ = 3: of expert 0 the values 0.8, 0.7, 0.5, of expert 1 0.9, 0.5, 0.5.
    found = best_tokens(tf.constant(PROBABILITY), 1)
    np.testing.assert_array_equal(found.tokens, [2, 4, 1, 0, 1, 3])
    np.testing.assert_allclose(found.weights, [0.8, 0.7, 0.5, 0.9, 0.5, 0.5])
    np.testing.assert_array_equal(found.counts, [3, 3])
    assert (found.num_tokens.numpy(), found.rows_per_expert.numpy()) == (5, 3)
    assert found.slots is None


def test_gradient_goes_to_the_tokens_that_were_taken():
    probability = tf.constant(PROBABILITY)
    with tf.GradientTape() as tape:
        tape.watch(probability)
        weights = best_tokens(probability, 1).weights
        total = tf.reduce_sum(weights * [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    gradient = tf.convert_to_tensor(tape.gradient(total, probability))
    np.testing.assert_array_equal(gradient, [[0, 4], [3, 5], [1, 0], [0, 6], [2, 0]])


def test_best_tokens_of_groups_of_unequal_sizes_by_hand():
    # Group 0 has tokens 0 to 2, group 1 none, group 2 tokens 3 and 4: C = 2, 0, 1.
    probability = tf.constant(PROBABILITY)
    with tf.GradientTape() as tape:
        tape.watch(probability)
        found = best_tokens(probability, 1, Groups(tf.constant([3, 0, 2])))
        total = tf.reduce_sum(found.weights * [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    np.testing.assert_array_equal(found.tokens, [2, 1, 0, 1, 4, 3])
    np.testing.assert_allclose(found.weights, [0.8, 0.5, 0.9, 0.5, 0.7, 0.5])
    np.testing.assert_array_equal(found.counts, [2, 2, 0, 0, 1, 1])
    assert found.num_tokens.numpy() == 5
    assert found.rows_per_expert is None
    gradient = tf.convert_to_tensor(tape.gradient(total, probability))
    np.testing.assert_array_equal(gradient, [[0, 3], [2, 4], [1, 0], [0, 6], [5, 0]])


def test_among_equals_of_a_group_the_earlier_tokens_are_taken():
    # Groups of 4 and 3 rows: C = ⌈1·4/2⌉ and ⌈1·3/2⌉.
    found = best_tokens(tf.fill([7, 2], 0.5), 1, Groups(tf.constant([4, 3])))
    np.testing.assert_array_equal(found.tokens, [0, 1, 0, 1, 4, 5, 4, 5])


def test_best_tokens_of_groups_of_equal_sizes_are_those_of_any_sizes():
    probability = tf.constant(np.random.default_rng(0).random((12, 4)))
    sizes = tf.constant([4, 4, 4])
    equal = best_tokens(probability, 2, Groups(sizes, tf.constant(4)))
    assert equal.rows_per_expert.numpy() == 2
    for name, values in arrays(best_tokens(probability, 2, Groups(sizes))).items():
        np.testing.assert_array_equal(getattr(equal, name), values, err_msg=name)


@pytest.mark.parametrize("sizes", [[0, 0], [0, 0, 0]])
def test_groups_without_rows(sizes):
    probability = tf.zeros([0, 2])
    with tf.GradientTape() as tape:
        tape.watch(probability)
        found = best_tokens(probability, 1, Groups(tf.constant(sizes)))
        total = tf.reduce_sum(found.weights)
    np.testing.assert_array_equal(found.counts, [0] * 2 * len(sizes))
    assert found.tokens.shape == (0,)
    gradient = tape.gradient(total, probability)
    assert gradient is None or tf.convert_to_tensor(gradient).shape == (0, 2)


@pytest.mark.parametrize("parts", [[3, 2], [5, 0], [1, 4], [0, 0, 5, 0], [2, 1, 1, 1]])
@pytest.mark.parametrize("k", [1, 2])
def test_replicas_take_what_one_device_takes_of_the_joined_batch(in_replicas, parts, k):
    """With equal values of tokens on different replicas, and replicas without tokens."""
    starts = np.cumsum([0, *parts])

    def run(r):
        return arrays(best_tokens(tf.constant(PROBABILITY[starts[r] : starts[r + 1]]), k))

    expected = best_tokens(tf.constant(PROBABILITY), k)
    of_expert = np.split(expected.tokens.numpy(), np.cumsum(expected.counts)[:-1])
    for r, found in enumerate(in_replicas(len(parts), run)):
        of_replica = [
            tokens[(tokens >= starts[r]) & (tokens < starts[r + 1])] - starts[r]
            for tokens in of_expert
        ]
        np.testing.assert_array_equal(found["tokens"], np.concatenate(of_replica))
        np.testing.assert_array_equal(found["counts"], [len(tokens) for tokens in of_replica])
        assert found["num_tokens"] == parts[r]
        experts = np.repeat([0, 1], found["counts"])
        rows = PROBABILITY[starts[r] : starts[r + 1]]
        np.testing.assert_array_equal(found["weights"], rows[found["tokens"], experts])
