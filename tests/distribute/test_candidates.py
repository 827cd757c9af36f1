import numpy as np
import pytest
import tensorflow as tf

from tfmoe.distribute.candidates import taken_of_candidates

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
    # Replica 1 has a single token: its second candidates are -1, as `Batchwise` marks them.
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
