import numpy as np
import pytest
import tensorflow as tf

from tfmoe.distribute.capacity import PRIORITIES, global_counts, within_capacity
from tfmoe.ops.assignments import assign_mask, assign_tokens

# Expert 0 gets tokens 0, 1, 3; expert 1 tokens 0, 2; expert 2 tokens 1, 2, 3.
EXPERTS = np.array([[0, 1], [2, 0], [1, 2], [0, 2]], np.int32)
WEIGHTS = np.array([[0.6, 0.4], [0.3, 0.7], [0.5, 0.5], [0.7, 0.5]], np.float32)


def make_assignments(experts=EXPERTS, weights=WEIGHTS, num_experts=3):
    return assign_tokens(tf.constant(experts), tf.constant(weights), num_experts)


def by_token(assignments):
    """`[(token, expert), ...]`."""
    tokens, experts, _ = (values.numpy().tolist() for values in assignments.by_token())
    return list(zip(tokens, experts, strict=True))


ALL = [(0, 0), (0, 1), (1, 0), (1, 2), (2, 1), (2, 2), (3, 0), (3, 2)]


@pytest.mark.parametrize(
    ("priority", "capacity", "dropped"),
    [
        # Expert 0 keeps tokens 0 and 1, expert 2 tokens 1 and 2.
        ("position", 2, [(3, 0), (3, 2)]),
        ("position", 1, [(1, 0), (2, 1), (2, 2), (3, 0), (3, 2)]),
        # Expert 0 is the first choice of tokens 0 and 3, expert 1 of 2, expert 2 of 1.
        ("choice", 2, [(1, 0), (3, 2)]),
        ("choice", 1, [(0, 1), (1, 0), (2, 2), (3, 0), (3, 2)]),
        # Expert 0 has 0.6, 0.7, 0.7, expert 1 has 0.4, 0.5, expert 2 has 0.3, 0.5, 0.5.
        ("weight", 2, [(0, 0), (1, 2)]),
        ("weight", 1, [(0, 0), (0, 1), (1, 2), (3, 0), (3, 2)]),
        # A different capacity for each expert.
        ("position", [1, 2, 0], [(1, 0), (1, 2), (2, 2), (3, 0), (3, 2)]),
        ("choice", [1, 0, 3], [(0, 1), (1, 0), (2, 1), (3, 0)]),
        ("weight", [0, 1, 2], [(0, 0), (0, 1), (1, 0), (1, 2), (3, 0)]),
        *[(priority, 3, []) for priority in PRIORITIES],
        *[(priority, 1000, []) for priority in PRIORITIES],
        *[(priority, 0, ALL) for priority in PRIORITIES],
    ],
)
def test_one_device_by_hand(priority, capacity, dropped):
    result = within_capacity(make_assignments(), tf.constant(capacity), priority)
    kept = [pair for pair in ALL if pair not in dropped]
    assert by_token(result) == kept
    np.testing.assert_array_equal(result.counts, [[e for _, e in kept].count(i) for i in range(3)])
    assert result.counts.shape == (3,)
    # Dropped assignments are moved to the end.
    np.testing.assert_array_equal(tf.sort(result.tokens), np.repeat(np.arange(4), 2))


def test_position_is_the_default():
    assert by_token(within_capacity(make_assignments(), 2)) == [p for p in ALL if p[0] < 3]


def test_dropped_assignments_use_no_capacity():
    # The id 3 drops an assignment: expert 0 has tokens 1 and 3, expert 2 tokens 1, 2, 3.
    experts = np.array([[3, 1], [2, 0], [3, 2], [0, 2]], np.int32)
    for priority, kept in {
        "position": [(0, 1), (1, 0), (1, 2)],
        "choice": [(0, 1), (1, 2), (3, 0)],
        "weight": [(0, 1), (1, 0), (2, 2)],
    }.items():
        result = within_capacity(make_assignments(experts), 1, priority)
        assert by_token(result) == kept, priority
        repeated = within_capacity(result, 1, priority)
        assert by_token(repeated) == kept, priority
        assert by_token(within_capacity(repeated, 0, priority)) == [], priority


@pytest.mark.parametrize("priority", ["position", "weight"])
def test_varying_experts_per_token_by_hand(priority):
    # Expert 0 has tokens 0, 1, 3 with 0.2, 0.9, 0.9, expert 1 token 1.
    mask = tf.constant([[True, False], [True, True], [False, False], [True, False]])
    probability = tf.constant([[0.2, 0.0], [0.9, 0.1], [0.0, 0.0], [0.9, 0.0]])
    result = within_capacity(assign_mask(mask, probability), 2, priority)
    expected = {
        "position": [(0, 0), (1, 0), (1, 1)],
        "weight": [(1, 0), (1, 1), (3, 0)],
    }
    assert by_token(result) == expected[priority]


@pytest.mark.parametrize("priority", PRIORITIES)
def test_gradient_reaches_the_weights_of_kept_assignments_only(priority):
    weights = tf.constant(WEIGHTS)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        result = within_capacity(assign_tokens(tf.constant(EXPERTS), weights, 3), 2, priority)
        total = tf.reduce_sum(result.sum_by_expert(result.weights) * [1.0, 10.0, 100.0])
    expected = np.array([[1, 10], [100, 1], [10, 100], [1, 100]])
    for token, expert in ALL:
        if (token, expert) not in by_token(result):
            expected[token, EXPERTS[token] == expert] = 0
    np.testing.assert_array_equal(tape.gradient(total, weights), expected)


@pytest.mark.parametrize("priority", PRIORITIES)
def test_no_tokens(priority):
    empty = make_assignments(np.zeros([0, 2], np.int32), np.zeros([0, 2], np.float32))
    result = within_capacity(empty, 2, priority)
    np.testing.assert_array_equal(result.counts, [0, 0, 0])
    assert result.slots.shape == (0, 2)


def test_wrong_priority():
    with pytest.raises(ValueError, match=r"priority must be one of .*'?weight'?, got 'size'"):
        within_capacity(make_assignments(), 2, "size")
    varying = assign_mask(tf.ones([2, 2], tf.bool), tf.ones([2, 2]))
    with pytest.raises(ValueError, match="'choice' if the number of experts varies by token"):
        within_capacity(varying, 2, "choice")


def test_global_counts_of_one_device():
    counts = global_counts(within_capacity(make_assignments(), 2))
    assert [count.numpy() for count in counts] == [4, 6]


# Several devices keep the assignments of the global batch that one device keeps.

CAPACITIES = [1, 3]


def random_batch(num_tokens, k, seed):
    """Random experts and weights, with many ties; the last id, 5, drops an assignment."""
    rng = np.random.default_rng(seed)
    experts = np.stack([rng.permutation(6)[:k] for _ in range(num_tokens)]).reshape(-1, k)
    weights = rng.integers(1, 4, [num_tokens, k]) / 4
    return experts.astype(np.int32), weights.astype(np.float32)


def kept_at_all_capacities(assignments, priorities):
    """The kept tokens and experts, sorted by token, for every priority and capacity."""
    return [
        within_capacity(assignments, capacity, priority).by_token()[:2]
        for priority in priorities
        for capacity in CAPACITIES
    ]


def check_replicas(in_replicas, parts, assign, priorities):
    """Compares replicas with one device.

    Args:
        in_replicas: the fixture.
        parts: the token count of each replica.
        assign: function of a begin and an end that returns the `Assignments` of these tokens.
        priorities: the priorities to compare.
    """
    starts = np.cumsum([0, *parts])

    def run(r):
        return kept_at_all_capacities(assign(starts[r], starts[r + 1]), priorities)

    results = in_replicas(len(parts), run)
    expected = kept_at_all_capacities(assign(0, starts[-1]), priorities)
    for i, (tokens, experts) in enumerate(expected):
        actual_pairs = [
            (token + starts[r], expert)
            for r, result in enumerate(results)
            for token, expert in zip(*result[i], strict=True)
        ]
        setting = priorities[i // len(CAPACITIES)], CAPACITIES[i % len(CAPACITIES)]
        expected_pairs = list(zip(tokens.numpy(), experts.numpy(), strict=True))
        assert actual_pairs == expected_pairs, setting
    num_kept = [len(tokens) for tokens, _ in expected]
    assert num_kept[0] < num_kept[1] or starts[-1] < 5  # few tokens: hardly any is dropped


@pytest.mark.parametrize(
    "parts",
    [[1, 9], [5, 0], [1, 7, 0, 2], [0, 1, 1, 0]],
    ids=str,
)
def test_replicas_keep_the_assignments_that_one_device_keeps(in_replicas, parts):
    experts, weights = random_batch(sum(parts), 2, seed=len(parts) + sum(parts))

    def assign(begin, end):
        return make_assignments(experts[begin:end], weights[begin:end], 5)

    check_replicas(in_replicas, parts, assign, ["position", "choice", "weight"])


@pytest.mark.parametrize("parts", [[4, 6], [3, 1, 0, 5]], ids=str)
def test_replicas_with_varying_experts_per_token(in_replicas, parts):
    rng = np.random.default_rng(sum(parts))
    mask = rng.random([sum(parts), 3]) < 0.6
    weights = rng.integers(1, 4, mask.shape).astype(np.float32)

    def assign(begin, end):
        return assign_mask(tf.constant(mask[begin:end]), tf.constant(weights[begin:end]))

    check_replicas(in_replicas, parts, assign, ["position", "weight"])


def test_equal_weights_on_replicas(in_replicas):
    """With equal weights the first assignments are kept."""
    experts, _ = random_batch(10, 3, seed=4)
    weights = np.ones([10, 3], np.float32)

    def run(r):
        rows = slice(0, 4) if r == 0 else slice(4, 10)
        assignments = make_assignments(experts[rows], weights[rows], 5)
        return [
            within_capacity(assignments, 3, priority).by_token()[:2]
            for priority in ("position", "weight")
        ]

    for by_position, by_weight in in_replicas(2, run):
        for a, b in zip(by_position, by_weight, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("priority", PRIORITIES)
def test_experts_without_tokens_on_other_replicas(in_replicas, priority):
    """The inner level of a hierarchical mixture."""
    expected = by_token(within_capacity(make_assignments(), 2, priority))

    def run(r):
        return within_capacity(make_assignments(), 2, priority, shared=False).by_token()[:2]

    for tokens, experts in in_replicas(2, run):
        assert list(zip(tokens, experts, strict=True)) == expected


@pytest.mark.parametrize("priority", ["position", "choice"])
def test_counts_of_all_replicas(in_replicas, priority):
    """The exchange that follows need not send counts."""
    experts, weights = random_batch(10, 3, seed=4)

    def run(r):
        rows = slice(0, 4) if r == 0 else slice(4, 10)
        assignments = make_assignments(experts[rows], weights[rows], 5)
        limited = within_capacity(assignments, 3, priority)
        return limited.counts, limited.replica_counts

    (first, of_first), (second, of_second) = in_replicas(2, run)
    np.testing.assert_array_equal(of_first, [first, second])
    np.testing.assert_array_equal(of_second, [first, second])


def test_global_counts_of_replicas(in_replicas):
    def run(r):
        rows = slice(0, 3) if r == 0 else slice(3, 4)
        assignments = make_assignments(EXPERTS[rows], WEIGHTS[rows])
        return global_counts(assignments), global_counts(assignments, num_tokens=r + 1)

    (first, of_given), (second, _) = in_replicas(2, run)
    assert first == second == (4, 8)
    assert of_given == (3, 8)
