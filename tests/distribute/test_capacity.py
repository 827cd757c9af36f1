import numpy as np
import pytest
import tensorflow as tf

from tfmoe.distribute.capacity import PRIORITIES, global_counts, within_capacity
from tfmoe.ops.assignments import assign_mask, assign_tokens

# Expert 0 gets tokens 0, 1, 3; expert 1 tokens 0, 2; expert 2 tokens 1, 2, 3.
EXPERTS = np.array([[0, 1], [2, 0], [1, 2], [0, 2]], np.int32)
WEIGHTS = np.array([[0.6, 0.4], [0.3, 0.7], [0.5, 0.5], [0.7, 0.5]], np.float32)


def assigned(experts=EXPERTS, weights=WEIGHTS, num_experts=3):
    return assign_tokens(tf.constant(experts), tf.constant(weights), num_experts)


def by_token(assignments):
    """`[(token, expert), ...]`."""
    tokens, experts, _ = (each.numpy().tolist() for each in assignments.by_token())
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
        # As many for each expert as it says here.
        ("position", [1, 2, 0], [(1, 0), (1, 2), (2, 2), (3, 0), (3, 2)]),
        ("choice", [1, 0, 3], [(0, 1), (1, 0), (2, 1), (3, 0)]),
        ("weight", [0, 1, 2], [(0, 0), (0, 1), (1, 0), (1, 2), (3, 0)]),
        *[(priority, 3, []) for priority in PRIORITIES],
        *[(priority, 1000, []) for priority in PRIORITIES],
        *[(priority, 0, ALL) for priority in PRIORITIES],
    ],
)
def test_one_device_by_hand(priority, capacity, dropped):
    found = within_capacity(assigned(), tf.constant(capacity), priority)
    kept = [pair for pair in ALL if pair not in dropped]
    assert by_token(found) == kept
    np.testing.assert_array_equal(found.counts, [[e for _, e in kept].count(i) for i in range(3)])
    assert found.counts.shape == (3,)
    # Nothing is lost: what is dropped lies behind.
    np.testing.assert_array_equal(tf.sort(found.tokens), np.repeat(np.arange(4), 2))


def test_position_is_the_default():
    assert by_token(within_capacity(assigned(), 2)) == [p for p in ALL if p[0] < 3]


def test_what_was_dropped_before_takes_no_place():
    # The id 3 drops: expert 0 has tokens 1 and 3, expert 2 tokens 1, 2, 3.
    experts = np.array([[3, 1], [2, 0], [3, 2], [0, 2]], np.int32)
    for priority, kept in {
        "position": [(0, 1), (1, 0), (1, 2)],
        "choice": [(0, 1), (1, 2), (3, 0)],
        "weight": [(0, 1), (1, 0), (2, 2)],
    }.items():
        found = within_capacity(assigned(experts), 1, priority)
        assert by_token(found) == kept, priority
        again = within_capacity(found, 1, priority)
        assert by_token(again) == kept, priority
        assert by_token(within_capacity(again, 0, priority)) == [], priority


@pytest.mark.parametrize("priority", ["position", "weight"])
def test_differing_numbers_of_experts_by_hand(priority):
    # Expert 0 has tokens 0, 1, 3 with 0.2, 0.9, 0.9, expert 1 token 1.
    mask = tf.constant([[True, False], [True, True], [False, False], [True, False]])
    probability = tf.constant([[0.2, 0.0], [0.9, 0.1], [0.0, 0.0], [0.9, 0.0]])
    found = within_capacity(assign_mask(mask, probability), 2, priority)
    expected = {
        "position": [(0, 0), (1, 0), (1, 1)],
        "weight": [(1, 0), (1, 1), (3, 0)],
    }
    assert by_token(found) == expected[priority]


@pytest.mark.parametrize("priority", PRIORITIES)
def test_gradient_reaches_the_weights_of_what_is_kept_only(priority):
    weights = tf.constant(WEIGHTS)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        found = within_capacity(assign_tokens(tf.constant(EXPERTS), weights, 3), 2, priority)
        total = tf.reduce_sum(found.sum_by_expert(found.weights) * [1.0, 10.0, 100.0])
    expected = np.array([[1, 10], [100, 1], [10, 100], [1, 100]])
    for token, expert in ALL:
        if (token, expert) not in by_token(found):
            expected[token, EXPERTS[token] == expert] = 0
    np.testing.assert_array_equal(tape.gradient(total, weights), expected)


@pytest.mark.parametrize("priority", PRIORITIES)
def test_no_tokens(priority):
    empty = assigned(np.zeros([0, 2], np.int32), np.zeros([0, 2], np.float32))
    found = within_capacity(empty, 2, priority)
    np.testing.assert_array_equal(found.counts, [0, 0, 0])
    assert found.slots.shape == (0, 2)


def test_wrong_priority():
    with pytest.raises(ValueError, match=r"priority must be one of .*'?weight'?, got 'size'"):
        within_capacity(assigned(), 2, "size")
    differing = assign_mask(tf.ones([2, 2], tf.bool), tf.ones([2, 2]))
    with pytest.raises(ValueError, match="'choice' where tokens have differing numbers"):
        within_capacity(differing, 2, "choice")


def test_global_counts_of_one_device():
    counts = global_counts(within_capacity(assigned(), 2))
    assert [each.numpy() for each in counts] == [4, 6]


# On several devices what an expert keeps of the global batch is what one device keeps.

CAPACITIES = [1, 3]


def random_batch(num_tokens, k, seed):
    """Experts and weights, of which many are equal; the last id, 5, drops."""
    rng = np.random.default_rng(seed)
    experts = np.stack([rng.permutation(6)[:k] for _ in range(num_tokens)]).reshape(-1, k)
    weights = rng.integers(1, 4, [num_tokens, k]) / 4
    return experts.astype(np.int32), weights.astype(np.float32)


def kept_at_all_capacities(assignments, priorities):
    """Of every priority and capacity the kept tokens and experts, sorted by token."""
    return [
        within_capacity(assignments, capacity, priority).by_token()[:2]
        for priority in priorities
        for capacity in CAPACITIES
    ]


def check_replicas(in_replicas, parts, assign, priorities):
    """Args:
    parts: the number of tokens of each replica.
    assign: makes the `Assignments` of tokens from one number to another.
    """
    starts = np.cumsum([0, *parts])

    def run(r):
        return kept_at_all_capacities(assign(starts[r], starts[r + 1]), priorities)

    found = in_replicas(len(parts), run)
    expected = kept_at_all_capacities(assign(0, starts[-1]), priorities)
    for i, (tokens, experts) in enumerate(expected):
        of_replicas = [
            (token + starts[r], expert)
            for r, every in enumerate(found)
            for token, expert in zip(*every[i], strict=True)
        ]
        setting = priorities[i // len(CAPACITIES)], CAPACITIES[i % len(CAPACITIES)]
        pairs = zip(tokens.numpy(), experts.numpy(), strict=True)
        assert of_replicas == list(pairs), setting
    kept = [len(tokens) for tokens, _ in expected]
    assert kept[0] < kept[1] or starts[-1] < 5  # else there is little to drop


@pytest.mark.parametrize(
    "parts",
    [[1, 9], [5, 0], [1, 7, 0, 2], [0, 1, 1, 0]],
    ids=str,
)
def test_replicas_keep_what_one_device_keeps(in_replicas, parts):
    experts, weights = random_batch(sum(parts), 2, seed=len(parts) + sum(parts))

    def assign(begin, end):
        return assigned(experts[begin:end], weights[begin:end], 5)

    check_replicas(in_replicas, parts, assign, ["position", "choice", "weight"])


@pytest.mark.parametrize("parts", [[4, 6], [3, 1, 0, 5]], ids=str)
def test_replicas_with_differing_numbers_of_experts(in_replicas, parts):
    rng = np.random.default_rng(sum(parts))
    mask = rng.random([sum(parts), 3]) < 0.6
    weights = rng.integers(1, 4, mask.shape).astype(np.float32)

    def assign(begin, end):
        return assign_mask(tf.constant(mask[begin:end]), tf.constant(weights[begin:end]))

    check_replicas(in_replicas, parts, assign, ["position", "weight"])


def test_all_weights_equal_on_replicas(in_replicas):
    """Then the weight says nothing, and the first are kept."""
    experts, _ = random_batch(10, 3, seed=4)
    weights = np.ones([10, 3], np.float32)

    def run(r):
        rows = slice(0, 4) if r == 0 else slice(4, 10)
        assignments = assigned(experts[rows], weights[rows], 5)
        return [
            within_capacity(assignments, 3, priority).by_token()[:2]
            for priority in ("position", "weight")
        ]

    for by_position, by_weight in in_replicas(2, run):
        for a, b in zip(by_position, by_weight, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("priority", PRIORITIES)
def test_experts_of_this_device_alone(in_replicas, priority):
    """The inner level of a hierarchical mixture: other replicas have no tokens for them."""
    expected = by_token(within_capacity(assigned(), 2, priority))

    def run(r):
        return within_capacity(assigned(), 2, priority, shared=False).by_token()[:2]

    for tokens, experts in in_replicas(2, run):
        assert list(zip(tokens, experts, strict=True)) == expected


def test_global_counts_of_replicas(in_replicas):
    def run(r):
        rows = slice(0, 3) if r == 0 else slice(3, 4)
        assignments = assigned(EXPERTS[rows], WEIGHTS[rows])
        return global_counts(assignments), global_counts(assignments, shared=False)

    (first, first_own), (second, second_own) = in_replicas(2, run)
    assert first == second == (4, 8)
    assert (first_own, second_own) == ((3, 6), (1, 2))
