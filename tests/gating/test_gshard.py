import numpy as np
import pytest
import tensorflow as tf
from gating.dense import assert_dense, float64_mixture

from tfmoe.gating import GShard, Hierarchical
from tfmoe.layers import MoE
from tfmoe.layers.mixing import limit_assignments

# W_g is the identity, so the inputs are the logits. Softmax, all over 10:
P = np.array([[6, 3, 1], [5, 1, 4], [4, 5, 1], [7, 1, 2], [1, 6, 3]]) / 10
X = np.log(P)
FIRST = [0, 0, 1, 0, 1]
SECOND = [1, 2, 0, 2, 2]
G2 = np.array([3 / 9, 4 / 9, 4 / 9, 2 / 9, 3 / 9])


def built_gate(**arguments):
    gate = GShard(num_experts=3, dtype="float64", **arguments)
    gate.build((None, 3))
    gate.gate_kernel.assign(np.broadcast_to(np.eye(3), gate.gate_kernel.shape))
    return gate


def pairs(assignments):
    """`{(token, expert): weight}` of the assignments that are not dropped."""
    tokens, experts, weights = (values.numpy() for values in assignments.by_token())
    return {(int(t), int(e)): w for t, e, w in zip(tokens, experts, weights, strict=True)}


def test_evaluation_by_hand():
    routing = built_gate()(tf.constant(X))
    expected = {}
    for token in range(5):
        expected[token, FIRST[token]] = 1 - G2[token]
        expected[token, SECOND[token]] = G2[token]
    assert pairs(routing.assignments) == pytest.approx(expected, rel=1e-12)


def test_capacity_by_hand():
    """Five tokens, three experts of capacity 2."""
    gate = built_gate(second_threshold=0.0, capacity_factor=1.2, minimum_capacity=0)
    assignments = gate(tf.constant(X), training=True).assignments
    kept = limit_assignments(assignments, gate, training=True)
    # Expert 0: first choices of 0, 1 and 3 (too many), then the second choice of 2.
    # Expert 1: first choices of 2 and 4, then the second choice of 0.
    # Expert 2: second choices of 1, 3 and 4 (too many).
    expected = {
        (0, 0): 6 / 9, (1, 0): 5 / 9, (2, 1): 5 / 9, (4, 1): 6 / 9, (1, 2): 4 / 9, (3, 2): 2 / 9,
    }  # fmt: skip
    assert pairs(kept) == pytest.approx(expected, rel=1e-12)
    assert limit_assignments(assignments, gate, training=False) is assignments


@pytest.mark.parametrize(("minimum", "kept"), [(0, 2), (2, 2), (3, 3), (4, 3)])
def test_minimum_capacity(minimum, kept):
    gate = built_gate(second_threshold=0.0, capacity_factor=1.2, minimum_capacity=minimum)
    assignments = gate(tf.constant(X), training=True).assignments
    limited = limit_assignments(assignments, gate, training=True)
    assert int(limited.counts[0]) == kept + (minimum == 4)


def test_random_second_expert_by_hand():
    """τ = 4/9: the second expert of tokens 1 and 2 is kept surely, that of token 3 half the time.
    A draw just below and above `g2/τ` decides otherwise.
    """
    gate = built_gate(second_threshold=4 / 9, capacity_factor=None)
    for draws, kept in (
        ([0.74, 0.99, 0.99, 0.49, 0.74], [True] * 5),
        ([0.76, 0.99, 0.99, 0.51, 0.76], [False, True, True, False, False]),
    ):
        gate.draw = lambda inputs, draws=draws: tf.constant(draws, tf.float64)[:, None]
        weights = pairs(gate(tf.constant(X), training=True).assignments)
        for token in range(5):
            assert weights[token, FIRST[token]] == pytest.approx(1 - G2[token], rel=1e-12)
            assert ((token, SECOND[token]) in weights) == kept[token]


def test_frequency_of_the_second_expert():
    """Monte Carlo: `min(1, g2/τ)`, for g2 = 0 (never), 1/10, 3/10 and 1/2 (surely), τ = 1/2."""
    g2 = np.array([0, 0.1, 0.3, 0.5])
    logits = np.log(np.maximum(np.stack([1 - g2, g2], axis=1), 1e-300))
    count = 4000
    gate = GShard(num_experts=2, seed=1, dtype="float64")
    gate.build((None, 2))
    gate.gate_kernel.assign(np.eye(2))
    routing = gate(tf.constant(np.repeat(logits, count, axis=0)), training=True)
    tokens, experts, _ = routing.assignments.by_token()
    seconds = (tokens.numpy() // count)[experts.numpy() == 1]
    seconds = np.bincount(seconds, minlength=5)[:4]
    # Token 3 has equal logits: its first expert is 0, its second 1.
    assert (seconds[0], seconds[3]) == (0, count)
    for index in (1, 2):
        expected = g2[index] / 0.5
        deviation = (expected * (1 - expected) / count) ** 0.5
        assert abs(seconds[index] / count - expected) < 5 * deviation


def test_balancing_loss_by_hand():
    """Of first choices, whatever happens to the second ones and to the capacity."""
    f, p = np.array([3, 2, 0]) / 5, P.mean(axis=0)
    for threshold in (0.0, 0.5):
        gate = built_gate(balance_weight=0.7, second_threshold=threshold, capacity_factor=0.1)
        loss = gate.loss(gate(tf.constant(X), training=True).sums)
        assert loss.numpy() == pytest.approx(0.7 * 3 * f @ p, rel=1e-12)


def test_balancing_loss_is_its_weight_at_exact_balance():
    x = np.stack([np.roll([3.0, 2.0, 1.0], t) for t in range(3)])
    gate = built_gate(balance_weight=0.7)
    loss = gate.loss(gate(tf.constant(x), training=True).sums)
    assert loss.numpy() == pytest.approx(0.7, rel=1e-12)


def reference(logits, draws, threshold, capacity):
    """`[T, E]` gate values after the capacity, and the balancing loss: GShard in NumPy."""
    num_tokens, num_experts = logits.shape
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    order = np.argsort(-p, axis=1, kind="stable")[:, :2]
    g = np.take_along_axis(p, order, axis=1)
    g /= g.sum(axis=1, keepdims=True)
    values, rows = np.zeros_like(p), np.zeros(num_experts, int)
    for choice in range(2):
        for t in range(num_tokens):
            expert = order[t, choice]
            if choice and not draws[t] < g[t, 1] / threshold:
                continue
            if rows[expert] < capacity:
                values[t, expert] = g[t, choice]
            rows[expert] += 1
    first = np.bincount(order[:, 0], minlength=num_experts) / num_tokens
    return values, num_experts * first @ p.mean(axis=0)


def test_against_an_independent_implementation():
    rng = np.random.default_rng(4)
    x, draws = rng.standard_normal((40, 3)), rng.uniform(size=40)
    gate = GShard(capacity_factor=1.0, minimum_capacity=0, balance_weight=1.0)
    layer = float64_mixture(gate)
    layer.gate.draw = lambda inputs: tf.constant(draws)[:, None]
    kernel = layer.gate.gate_kernel.value
    values, loss = reference(x @ kernel.numpy(), draws, 0.5, 8)
    assert np.count_nonzero(values) < 60

    def gate_values(x):
        p = tf.nn.softmax(x @ kernel)
        two = tf.math.top_k(p, 2).values
        return tf.where(values > 0, p / tf.reduce_sum(two, axis=1, keepdims=True), 0.0)

    np.testing.assert_allclose(gate_values(x), values, rtol=1e-10)
    layer.gate.balance_weight = 0.0  # the task's gradient alone
    assert_dense(layer, x, gate_values, training=True)
    layer.gate.balance_weight = 1.0
    layer(tf.constant(x), training=True)
    assert layer.losses[-1].numpy() == pytest.approx(loss, rel=1e-6)  # Keras' float32


def test_dropped_assignments_are_a_metric():
    layer = MoE(3, 4, gate=GShard(0.0, capacity_factor=0.6, minimum_capacity=1), name="moe")
    layer.build((None, 3))
    layer.gate.gate_kernel.assign(np.eye(3))
    layer(tf.constant(X, tf.float32), training=True)
    # Each expert keeps 1 of the 10 assignments.
    assert float(layer.expert_metrics.result()["moe_dropped"]) == pytest.approx(0.7)


def test_at_both_levels_of_a_hierarchical_gate():
    gate = Hierarchical(2, GShard()).for_experts(4)
    assert gate.num_selected == 4
    gate.build((None, 3))
    assert gate.loss(gate(tf.constant(X, tf.float32), training=True).sums).numpy() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_experts": 1}, "num_experts must be at least 2 for GShard"),
        ({"second_threshold": 1.5}, "second_threshold must be a number from 0 to 1, got 1.5"),
        ({"balance_weight": -1}, "balance_weight must be a finite number of at least 0, got -1"),
        ({"capacity_factor": 0}, "capacity_factor must be a finite number above 0, got 0"),
        ({"minimum_capacity": 1.0}, "minimum_capacity must be an integer of at least 0, got 1.0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        GShard(**arguments)


def test_no_threshold_draws_nothing():
    assert GShard(0.0).seed_generator is None
