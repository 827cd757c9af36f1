import numpy as np
import pytest
import tensorflow as tf

from tfmoe.distribute.best_tokens import (
    best_tokens,
    best_tokens_of_sequences,
    count_accepted,
    lowest_taken,
)
from tfmoe.gating import Groups

# The best two values of three experts on each of two replicas.
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
        (1, [[1, 0, 1], [0, 1, 0]]),  # expert 2 has a tie: the value of replica 0 is first
        (2, [[1, 1, 1], [1, 1, 1]]),
        (3, [[1, 2, 1], [2, 1, 2]]),  # .9 .8 .7; .6 .4 .3; .5 .5 .5
        (4, [[2, 2, 2], [2, 2, 2]]),
        (0, [[0, 0, 0], [0, 0, 0]]),
    ],
)
def test_by_hand(in_replicas, num_taken, expected):
    result = in_replicas(2, lambda r: count_accepted(tf.constant(BEST[r]), num_taken))
    np.testing.assert_array_equal(result, [expected] * 2)  # the same on all replicas


def test_padding_is_never_accepted(in_replicas):
    # Replica 1 has a single token: `best_tokens` pads its second candidates.
    best = BEST.copy()
    best[1, :, 1] = tf.float32.min
    result = in_replicas(2, lambda r: count_accepted(tf.constant(best[r]), 3))
    np.testing.assert_array_equal(result, [[[2, 2, 2], [1, 1, 1]]] * 2)


def test_no_candidates(in_replicas):
    result = in_replicas(2, lambda r: count_accepted(tf.zeros([3, 0]), tf.constant(0)))
    np.testing.assert_array_equal(result, np.zeros([2, 2, 3]))


def test_more_replicas_than_experts(in_replicas):
    # Replica 0 holds the only expert. Replicas 3 and 1 have .9 and .8.
    best = np.array([0.1, 0.8, 0.7, 0.9], np.float32)
    result = in_replicas(4, lambda r: count_accepted(tf.constant(best[r])[None, None], 2))
    np.testing.assert_array_equal(result, [[[0], [1], [0], [1]]] * 4)


def test_a_single_device_accepts_all():
    np.testing.assert_array_equal(count_accepted(tf.constant(BEST[0]), 2), [[2, 2, 2]])


# Best tokens.

# Five tokens, two experts.
PROBABILITY = np.array([[0.1, 0.9], [0.5, 0.5], [0.8, 0.2], [0.5, 0.5], [0.7, 0.3]], np.float32)


def arrays(assignments):
    fields = ("tokens", "weights", "counts", "num_tokens")
    return {name: getattr(assignments, name) for name in fields}


def test_best_tokens_of_one_device_by_hand():
    # C = ⌈1·5/2⌉ = 3: expert 0 takes 0.8, 0.7, 0.5; expert 1 takes 0.9, 0.5, 0.5.
    result = best_tokens(tf.constant(PROBABILITY), 1)
    np.testing.assert_array_equal(result.tokens, [2, 4, 1, 0, 1, 3])
    np.testing.assert_allclose(result.weights, [0.8, 0.7, 0.5, 0.9, 0.5, 0.5])
    np.testing.assert_array_equal(result.counts, [3, 3])
    assert (result.num_tokens.numpy(), result.rows_per_expert.numpy()) == (5, 3)
    assert result.slots is None


def test_gradient_reaches_the_selected_tokens():
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
        result = best_tokens(probability, 1, Groups(tf.constant([3, 0, 2])))
        total = tf.reduce_sum(result.weights * [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    np.testing.assert_array_equal(result.tokens, [2, 1, 0, 1, 4, 3])
    np.testing.assert_allclose(result.weights, [0.8, 0.5, 0.9, 0.5, 0.7, 0.5])
    np.testing.assert_array_equal(result.counts, [2, 2, 0, 0, 1, 1])
    assert result.num_tokens.numpy() == 5
    assert result.rows_per_expert is None
    gradient = tf.convert_to_tensor(tape.gradient(total, probability))
    np.testing.assert_array_equal(gradient, [[0, 3], [2, 4], [1, 0], [0, 6], [5, 0]])


def test_groups_prefer_earlier_tokens_in_a_tie():
    # Groups of 4 and 3 rows: C = ⌈1·4/2⌉ and ⌈1·3/2⌉.
    result = best_tokens(tf.fill([7, 2], 0.5), 1, Groups(tf.constant([4, 3])))
    np.testing.assert_array_equal(result.tokens, [0, 1, 0, 1, 4, 5, 4, 5])


def test_equal_group_sizes_give_the_general_result():
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
        result = best_tokens(probability, 1, Groups(tf.constant(sizes)))
        total = tf.reduce_sum(result.weights)
    np.testing.assert_array_equal(result.counts, [0] * 2 * len(sizes))
    assert result.tokens.shape == (0,)
    gradient = tape.gradient(total, probability)
    assert gradient is None or tf.convert_to_tensor(gradient).shape == (0, 2)


@pytest.mark.parametrize("parts", [[3, 2], [5, 0], [1, 4], [0, 0, 5, 0], [2, 1, 1, 1]])
@pytest.mark.parametrize("k", [1, 2])
def test_replicas_select_the_tokens_that_one_device_selects(in_replicas, parts, k):
    """Includes ties between replicas, and replicas without tokens."""
    starts = np.cumsum([0, *parts])

    def run(r):
        return arrays(best_tokens(tf.constant(PROBABILITY[starts[r] : starts[r + 1]]), k))

    expected = best_tokens(tf.constant(PROBABILITY), k)
    tokens_by_expert = np.split(expected.tokens.numpy(), np.cumsum(expected.counts)[:-1])
    for r, result in enumerate(in_replicas(len(parts), run)):
        local_tokens = [
            tokens[(tokens >= starts[r]) & (tokens < starts[r + 1])] - starts[r]
            for tokens in tokens_by_expert
        ]
        np.testing.assert_array_equal(result["tokens"], np.concatenate(local_tokens))
        np.testing.assert_array_equal(result["counts"], [len(tokens) for tokens in local_tokens])
        assert result["num_tokens"] == parts[r]
        experts = np.repeat([0, 1], result["counts"])
        rows = PROBABILITY[starts[r] : starts[r + 1]]
        np.testing.assert_array_equal(result["weights"], rows[result["tokens"], experts])


def test_extra_tokens_and_fractions_by_hand():
    # ⌈1·5/2⌉ + 1 = 4, at most 5 tokens; ⌈0.6·5/2⌉ = 2.
    for k, extra, expected in ((1, 1, 4), (1, 7, 5), (0.6, 0, 2), (2.0, 0, 5)):
        result = best_tokens(tf.constant(PROBABILITY), k, extra=extra)
        np.testing.assert_array_equal(result.counts, [expected] * 2)


def test_lowest_taken_by_hand():
    # The third highest of .8 .7 .5 .5 .1 and of .9 .5 .5 .3 .2.
    probability = tf.constant(PROBABILITY)
    np.testing.assert_allclose(lowest_taken(probability, 1), [0.5, 0.5])
    np.testing.assert_allclose(lowest_taken(probability, 1, extra=1), [0.5, 0.3])
    np.testing.assert_allclose(lowest_taken(-probability, 1), [-0.5, -0.5])
    # ⌈3/2⌉ = 2 of tokens 0 to 2, none of none, and 1 of tokens 3 and 4.
    groups = Groups(tf.constant([3, 0, 2]))
    nothing = probability.dtype.max
    expected = [[0.5, 0.5], [nothing, nothing], [0.7, 0.5]]
    np.testing.assert_allclose(lowest_taken(probability, 1, groups), expected)
    np.testing.assert_array_equal(lowest_taken(probability[:0], 1), [nothing, nothing])


@pytest.mark.parametrize("parts", [[3, 2], [0, 0, 5, 0]])
def test_lowest_taken_is_that_of_one_device(in_replicas, parts):
    starts = np.cumsum([0, *parts])
    rows = -3 * PROBABILITY  # negative, as logits can be
    result = in_replicas(
        len(parts), lambda r: lowest_taken(tf.constant(rows[starts[r] : starts[r + 1]]), 1, extra=1)
    )
    expected = lowest_taken(tf.constant(rows), 1, extra=1)
    np.testing.assert_array_equal(result, [expected] * len(parts))


def test_best_tokens_of_sequences_by_hand():
    # Sequences of tokens 0 to 2, none, and 3 and 4: 2, 0 and 1 tokens for each expert.
    sizes = tf.constant([3, 0, 2])
    result = best_tokens_of_sequences(tf.constant(PROBABILITY), 1, Groups(sizes))
    np.testing.assert_array_equal(result.tokens, [2, 1, 4, 0, 1, 3])
    np.testing.assert_allclose(result.weights, [0.8, 0.5, 0.7, 0.9, 0.5, 0.5])
    np.testing.assert_array_equal(result.counts, [3, 3])
    one = best_tokens_of_sequences(tf.constant(PROBABILITY), 1)
    for name, values in arrays(best_tokens(tf.constant(PROBABILITY), 1)).items():
        np.testing.assert_array_equal(getattr(one, name), values, err_msg=name)
