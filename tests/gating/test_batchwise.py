import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe import gating
from tfmoe.config import ConfigError, load_config
from tfmoe.gating import Batchwise, Groups, Hierarchical, NoisyTopK, Softmax
from tfmoe.layers import MoE

X = np.random.default_rng(0).standard_normal((11, 5))


def built_gate(num_experts, input_dim=5, spread=0.3, **arguments):
    """A float64 gate with random kernels and thresholds around 1/E, the same at each call."""
    gate = Batchwise(num_experts=num_experts, dtype="float64", **arguments)
    gate.build((None, input_dim))
    rng = np.random.default_rng(2)
    gate.kernels["gate_kernel"].assign(rng.standard_normal(gate.kernels["gate_kernel"].shape))
    gate.log_thresholds.assign(
        rng.uniform(-spread, spread, gate.log_thresholds.shape) - math.log(num_experts)
    )
    return gate


def softmax(logits):
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def probability_of(gate, x=X):
    return softmax(x @ gate.kernels["gate_kernel"].numpy())


def ceil_of(k, num_tokens, num_experts):
    return math.ceil(k * num_tokens / num_experts)


def batchwise_mask(probability, num_taken, rows=slice(None)):
    """`[T, E]` 0 or 1: eq 18 among the `rows`, the earlier token first among equals."""
    mask = np.zeros_like(probability)
    tokens = np.arange(len(probability))[rows]
    for i in range(probability.shape[1]):
        order = np.argsort(-probability[tokens, i], kind="stable")
        mask[tokens[order[:num_taken]], i] = 1
    return mask


def dense_gates(routing, num_tokens, num_experts):
    """`[T, E]` from a `Routing`; every assignment must come once."""
    tokens, experts, gates = (each.numpy() for each in routing.assignments.by_token())
    assert len({*zip(tokens, experts, strict=True)}) == len(tokens)
    dense = np.zeros((num_tokens, num_experts))
    dense[tokens, experts] = gates
    return dense


def chosen(routing, num_tokens, num_experts):
    """`[T, E]` 0 or 1: the assignments of a `Routing`."""
    tokens, experts, _ = (each.numpy() for each in routing.assignments.by_token())
    mask = np.zeros((num_tokens, num_experts))
    np.add.at(mask, (tokens, experts), 1)
    return mask


def tokens_of_experts(routing):
    """The tokens of each expert, in order."""
    tokens, experts, _ = (each.numpy() for each in routing.assignments.by_token())
    return [tokens[experts == i] for i in range(len(routing.assignments.counts))]


def values_of(measures):
    return {name: float(value) for name, value in measures.items()}


# By hand.

PROBABILITY = np.array(
    [[0.60, 0.30, 0.10], [0.50, 0.10, 0.40], [0.20, 0.35, 0.45], [0.42, 0.28, 0.30]]
)
THRESHOLDS = np.array([0.55, 0.25, 0.5])


def gate_by_hand():
    """Token t has the probabilities of row t, by one-hot inputs; k = 1 of 3 experts, 4 tokens."""
    gate = built_gate(3, input_dim=4, k=1)
    gate.kernels["gate_kernel"].assign(np.log(PROBABILITY))
    gate.log_thresholds.assign(np.log(THRESHOLDS))
    return gate


def test_training_by_hand():
    gate = gate_by_hand()
    with tf.GradientTape() as tape:
        routing = gate.route(tf.eye(4, dtype=tf.float64), training=True)
        loss = gate.loss(routing.sums)
    # m = ⌈1·4/3⌉ = 2. Expert 0 takes tokens 0 and 1, expert 1 tokens 2 and 0, expert 2 tokens 2 and
    # 1; nobody takes token 3. Gates, of 0.6 + 0.3, 0.5 + 0.4, 0.35 + 0.45:
    expected = np.array([[6 / 9, 3 / 9, 0], [5 / 9, 0, 4 / 9], [0, 7 / 16, 9 / 16], [0, 0, 0]])
    np.testing.assert_allclose(dense_gates(routing, 4, 3), expected, rtol=1e-12)
    np.testing.assert_array_equal(routing.sums["load"], [2, 2, 2])
    importance = [11 / 9, 1 / 3 + 7 / 16, 4 / 9 + 9 / 16]
    np.testing.assert_allclose(routing.sums["importance"], importance, rtol=1e-12)
    # By the thresholds expert 0 has token 0 (1 is missing: 0.55 - 0.5), expert 1 has 0, 2 and 3 (3
    # is too many: 0.28 - 0.25), expert 2 has none (0.5 - 0.45 and 0.5 - 0.4).
    assert loss.numpy() == pytest.approx((0.05 + 0.03 + 0.05 + 0.1) / 4, rel=1e-12)
    # By T_i it is (m - tokens over T_i) / 4, here (2 - 1, 2 - 3, 2 - 0) / 4; log T_i gets that too,
    # without the factor T_i.
    gradient = tape.gradient(loss, gate.log_thresholds).numpy()
    np.testing.assert_allclose(gradient, [1 / 4, -1 / 4, 2 / 4], rtol=1e-12)
    # 4 are over the thresholds, 6 taken, 3 both: (0, 0), (0, 1), (2, 1). By the thresholds tokens 0
    # to 3 have 2, 0, 1, 1 experts.
    assert values_of(gate.measures(routing.sums)) == pytest.approx(
        {
            "threshold_precision": 3 / 4,
            "threshold_recall": 3 / 6,
            "experts_per_token": 1.0,
            "unrouted": 1 / 4,
        }
    )


def test_inference_by_hand():
    gate = gate_by_hand()
    routing = gate.route(tf.eye(4, dtype=tf.float64))
    np.testing.assert_array_equal(routing.assignments.tokens, [0, 0, 2, 3])
    np.testing.assert_array_equal(routing.assignments.counts, [1, 3, 0])
    np.testing.assert_allclose(routing.assignments.weights, [6 / 9, 3 / 9, 1, 1], rtol=1e-12)
    np.testing.assert_array_equal(routing.sums["load"], [1, 3, 0])
    np.testing.assert_allclose(routing.sums["importance"], [2 / 3, 7 / 3, 0], rtol=1e-12)
    measures = gate.measures(routing.sums)
    assert values_of(measures) == {"experts_per_token": 1.0, "unrouted": 0.25}


def test_a_probability_equal_to_its_threshold_is_not_over_it():
    gate = built_gate(2, k=1)
    gate.kernels["gate_kernel"].assign(np.zeros((5, 2)))
    gate.log_thresholds.assign(np.log([0.5, 0.25]))
    thresholds = gate.thresholds.numpy()
    assert thresholds[0] == 0.5  # exactly, and so is softmax(0, 0)
    np.testing.assert_array_equal(chosen(gate.route(tf.constant(X)), 11, 2), [[0, 1]] * 11)


# Groups of unequal sizes: by hand, with k = 1 of 2 experts in each of 3 groups.

# Token t has the probabilities of row t: 0, 2, 4 in group 0, none in group 1, 1 and 3 in group 2.
ROWS_OF_GROUPS = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3], [0.55, 0.45]])
SIZES = Groups(tf.constant([3, 0, 2]))


def gates_of_groups_by_hand():
    gate = built_gate(2, k=1, num_groups=3)
    gate.kernels["gate_kernel"].assign(np.tile(np.log(ROWS_OF_GROUPS), (3, 1, 1)))
    gate.log_thresholds.assign(np.log([[0.5, 0.5], [0.1, 0.1], [0.5, 0.5]]))
    return gate


def test_training_in_groups_of_unequal_sizes_by_hand():
    gate = gates_of_groups_by_hand()
    with tf.GradientTape() as tape:
        routing = gate.route(tf.eye(5, dtype=tf.float64), training=True, groups=SIZES)
        loss = gate.loss(routing.sums)
    # Group 0: m = ⌈1·3/2⌉ = 2, expert 0 takes 0.9 and 0.6, expert 1 takes 0.8 and 0.4. Group 2:
    # m = ⌈1·2/2⌉ = 1, expert 4 takes 0.7, expert 5 takes 0.45.
    expected = np.zeros((5, 6))
    expected[[0, 1, 1, 2, 3, 4], [0, 0, 1, 1, 4, 5]] = [1, 0.6, 0.4, 1, 1, 1]
    np.testing.assert_allclose(dense_gates(routing, 5, 6), expected, rtol=1e-12)
    np.testing.assert_array_equal(routing.assignments.counts, [2, 2, 0, 0, 1, 1])
    assert routing.assignments.rows_per_expert is None
    np.testing.assert_array_equal(routing.sums["tokens"], [3, 0, 2])
    np.testing.assert_array_equal(routing.sums["load"], [[2, 2], [0, 0], [1, 1]])
    importance = [[1.6, 1.4], [0, 0], [1, 1]]
    np.testing.assert_allclose(routing.sums["importance"], importance, rtol=1e-12)
    # Over 0.5 are 0.9, 0.6, 0.8, 0.7, 0.55. Of these the last is not taken (0.05); 0.4 and 0.45 are
    # taken and not over it (0.1 and 0.05).
    assert loss.numpy() == pytest.approx((0.05 + 0.1 + 0.05) / 5, rel=1e-12)
    # (m - tokens over the threshold) / 5.
    gradient = tape.gradient(loss, gate.log_thresholds).numpy()
    expected = np.array([[2 - 2, 2 - 1], [0, 0], [1 - 2, 1 - 0]]) / 5
    np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-15)
    measures = values_of(gate.measures(routing.sums))
    assert measures["threshold_precision"] == pytest.approx(4 / 5)
    assert measures["threshold_recall"] == pytest.approx(4 / 6)


def test_inference_in_groups_of_unequal_sizes_by_hand():
    gate = gates_of_groups_by_hand()
    gate.log_thresholds.assign(np.log([[0.5, 0.3], [0.1, 0.1], [0.6, 0.5]]))
    routing = gate.route(tf.eye(5, dtype=tf.float64), groups=SIZES)
    # Token 1 is over both thresholds of group 0; of group 2 token 4 is over none.
    expected = np.zeros((5, 6))
    expected[[0, 1, 1, 2, 3], [0, 0, 1, 1, 4]] = [1, 0.6, 0.4, 1, 1]
    np.testing.assert_allclose(dense_gates(routing, 5, 6), expected, rtol=1e-12)
    np.testing.assert_array_equal(routing.sums["load"], [[2, 2], [0, 0], [1, 0]])
    np.testing.assert_array_equal(routing.sums["routed"], [3, 0, 1])


@pytest.mark.parametrize("primary", [NoisyTopK(k=2, noise=False), Batchwise(k=2)])
@pytest.mark.parametrize("training", [False, True])
def test_as_inner_level_each_group_is_a_batch_of_its_own(primary, training):
    gate = Hierarchical(3, primary, Batchwise(k=2)).for_experts(12, dtype="float64")
    gate.build((None, 5))
    rng = np.random.default_rng(2)
    for weight in gate.trainable_weights:
        values = rng.standard_normal(weight.shape)
        if weight.name == "log_thresholds":
            values = rng.uniform(-0.4, 0.2, weight.shape) - np.log(weight.shape[-1])
        weight.assign(values)
    routing = gate.route(tf.constant(X), training=training)
    outer = dense_gates(gate.primary.route(tf.constant(X), training=training), 11, 3)
    expected = np.zeros((11, 12))
    for i in range(3):
        rows = np.flatnonzero(outer[:, i])
        within = softmax(X[rows] @ gate.secondary.kernels["gate_kernel"].numpy()[i])
        if training:
            mask = batchwise_mask(within, ceil_of(2, len(rows), 4))
        else:
            mask = within > np.exp(gate.secondary.log_thresholds.numpy()[i])
        weighted = within * mask
        total = weighted.sum(axis=1, keepdims=True)
        inner = np.divide(weighted, total, out=np.zeros_like(weighted), where=total > 0)
        expected[rows, 4 * i : 4 * i + 4] = outer[rows, i, None] * inner
    np.testing.assert_allclose(dense_gates(routing, 11, 12), expected, rtol=0, atol=1e-12)
    assert np.count_nonzero(expected) > 11
    sizes = np.count_nonzero(outer, axis=0)
    assert len({*sizes}) > 1 or isinstance(primary, Batchwise)


# The batchwise mask.


@pytest.mark.parametrize(
    ("num_tokens", "num_experts", "k", "num_taken"),
    [
        (12, 4, 2, 6),
        (11, 4, 2, 6),  # 5.5
        (11, 6, 2, 4),  # 3.67
        (7, 5, 1, 2),  # 1.4
        (1, 6, 2, 1),  # 0.33
        (2, 6, 4, 2),  # 1.33
        (11, 6, 6, 11),  # all
        (1, 1, 1, 1),
        (3000, 64, 4, 188),  # 187.5
    ],
)
def test_every_expert_takes_equally_many_and_its_best(num_tokens, num_experts, k, num_taken):
    gate = built_gate(num_experts, k=k)
    x = np.random.default_rng(1).standard_normal((num_tokens, 5))
    routing = gate.route(tf.constant(x), training=True)
    assert routing.assignments.tokens.shape == (num_experts * num_taken,)
    assert routing.assignments.rows_per_expert.numpy() == num_taken
    np.testing.assert_array_equal(routing.assignments.counts, [num_taken] * num_experts)
    np.testing.assert_array_equal(routing.sums["load"], [num_taken] * num_experts)
    mask = batchwise_mask(probability_of(gate, x), num_taken)
    np.testing.assert_array_equal(chosen(routing, num_tokens, num_experts), mask)
    weighted = probability_of(gate, x) * mask
    total = weighted.sum(axis=1, keepdims=True)
    expected = np.divide(weighted, total, out=np.zeros_like(weighted), where=total > 0)
    gates = dense_gates(routing, num_tokens, num_experts)
    np.testing.assert_allclose(gates, expected, rtol=0, atol=1e-12)


def test_among_equals_the_earlier_tokens_are_taken():
    gate = built_gate(4, k=2)
    x = np.repeat(X[:1], 10, axis=0)
    routing = gate.route(tf.constant(x), training=True)
    np.testing.assert_array_equal(tokens_of_experts(routing), [range(5)] * 4)
    # One token that is better for every second expert comes first there, wherever it lies.
    probability = probability_of(gate, X[:2])
    x[7] = X[1]
    routing = gate.route(tf.constant(x), training=True)
    for i, tokens in enumerate(tokens_of_experts(routing)):
        better = probability[1, i] > probability[0, i]
        np.testing.assert_array_equal(tokens, [0, 1, 2, 3, 7] if better else range(5))


def test_all_experts_selected_is_the_softmax():
    gate = built_gate(4, k=4)
    routing = gate.route(tf.constant(X), training=True)
    np.testing.assert_allclose(dense_gates(routing, 11, 4), probability_of(gate), rtol=1e-12)


# The loss and what it trains.


def loss_of(gate):
    return gate.loss(gate.route(tf.constant(X), training=True).sums)


@pytest.mark.parametrize("seed", range(8))
def test_loss_is_the_sum_of_eq_20_over_the_tokens_and_not_negative(seed):
    gate = built_gate(6, k=2)
    rng = np.random.default_rng(seed)
    gate.log_thresholds.assign(np.log(rng.uniform(0.02, 0.6, 6)))
    routing = gate.route(tf.constant(X), training=True)
    probability, thresholds = probability_of(gate), gate.thresholds.numpy()
    taken = batchwise_mask(probability, 4)
    over = probability > thresholds
    expected = ((over - taken) * (probability - thresholds)).sum() / len(X)
    assert gate.loss(routing.sums).numpy() == pytest.approx(expected, rel=1e-10)
    assert gate.loss(routing.sums).numpy() > 0
    measures = values_of(gate.measures(routing.sums))
    both = np.sum(over * taken)
    assert measures == pytest.approx(
        {
            "threshold_precision": both / over.sum(),
            "threshold_recall": both / 24,
            "experts_per_token": over.sum() / 11,
            "unrouted": np.mean(~over.any(axis=1)),
        }
    )


def test_loss_is_zero_where_the_masks_agree_and_both_routings_are_equal():
    gate = built_gate(6, k=2)
    ordered = -np.sort(-probability_of(gate), axis=0)
    gate.log_thresholds.assign(np.log((ordered[3] + ordered[4]) / 2))  # m = 4
    with tf.GradientTape() as tape:
        training = gate.route(tf.constant(X), training=True)
        loss = gate.loss(training.sums)
    assert loss.numpy() == pytest.approx(0, abs=1e-15)
    gradient = tape.gradient(loss, gate.log_thresholds).numpy()
    np.testing.assert_allclose(gradient, 0, atol=1e-15)
    measures = values_of(gate.measures(training.sums))
    assert (measures["threshold_precision"], measures["threshold_recall"]) == (1, 1)
    inference = gate.route(tf.constant(X))
    gates = dense_gates(training, 11, 6)
    np.testing.assert_allclose(dense_gates(inference, 11, 6), gates, rtol=1e-12)
    # One threshold moved past one token: no agreement, a loss.
    log_thresholds = gate.log_thresholds.numpy()
    for other in (2, 5):
        moved = log_thresholds.copy()
        moved[1] = np.log(ordered[other, 1] + (1e-9 if other == 2 else -1e-9))
        gate.log_thresholds.assign(moved)
        assert loss_of(gate).numpy() > 1e-6


def test_loss_moves_a_threshold_towards_m_tokens():
    gate = built_gate(6, k=2)
    ordered = -np.sort(-probability_of(gate), axis=0)
    admitted = np.array([4, 7, 0, 3, 11, 5])  # m = 4
    # Just below the last token that is admitted.
    below = ordered[np.maximum(admitted, 1) - 1, np.arange(6)] * 0.999
    gate.log_thresholds.assign(np.log(np.where(admitted > 0, below, 1.01)))
    with tf.GradientTape() as tape:
        loss = loss_of(gate)
    gradient = tape.gradient(loss, gate.log_thresholds).numpy()
    # The gradient with respect to T, which log T is moved by.
    np.testing.assert_allclose(gradient, (4 - admitted) / 11, rtol=1e-12, atol=1e-15)


def gradients_of_loss_and_task(layer):
    """By every trainable variable and the inputs."""
    x = tf.constant(X)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        task = tf.reduce_sum(tf.sin(layer(x, training=True)))
        loss = tf.add_n(layer.losses)
    sources = [x, *layer.trainable_variables]
    return [
        {
            getattr(source, "path", "inputs"): None if value is None else np.array(value)
            for source, value in zip(sources, tape.gradient(target, sources), strict=True)
        }
        for target in (loss, task)
    ]


@pytest.mark.parametrize("groups", [None, 2])
def test_loss_trains_the_thresholds_alone_and_nothing_else_trains_them(groups):
    layer = MoE(6, 7, gate=Batchwise(k=2), groups=groups, dtype="float64")
    layer.build((None, 5))
    by_loss, by_task = gradients_of_loss_and_task(layer)
    thresholds = {name for name in by_loss if name.endswith("log_thresholds")}
    assert len(thresholds) == (1 if groups is None else 2)
    for name, gradient in by_loss.items():
        is_zero = gradient is None or not np.any(gradient)
        assert is_zero != (name in thresholds), name
    for name, gradient in by_task.items():
        is_zero = gradient is None or not np.any(gradient)
        assert is_zero == (name in thresholds), name


def test_loss_is_that_of_importance_and_that_of_the_thresholds():
    gate = built_gate(6, k=2, importance_weight=0.3)
    sums = gate(tf.constant(X), training=True).sums
    importance = sums["importance"].numpy()
    of_thresholds = loss_of(built_gate(6, k=2)).numpy()
    expected = 0.3 * importance.var() / importance.mean() ** 2 + of_thresholds
    assert gate.loss(sums).numpy() == pytest.approx(expected, rel=1e-12)
    # As a level: without that of importance, which a hierarchical mixture has for all experts.
    assert gate.loss_as_level(sums).numpy() == pytest.approx(of_thresholds, rel=1e-12)


def test_importance_loss_reaches_the_kernel():
    gate = built_gate(6, k=2, importance_weight=1.0)

    def importance_loss():
        sums = gate.route(tf.constant(X), training=True).sums
        return gate.loss(sums) - gate.loss_as_level(sums)

    with tf.GradientTape() as tape:
        loss = importance_loss()
    kernel = gate.kernels["gate_kernel"]
    gradient, values = tape.gradient(loss, kernel).numpy(), kernel.numpy()
    for i in [(0, 0), (2, 3), (4, 5)]:
        sides = []
        for step in (1e-6, -1e-6):
            moved = values.copy()
            moved[i] += step
            kernel.assign(moved)
            sides.append(importance_loss().numpy())
        assert gradient[i] == pytest.approx((sides[0] - sides[1]) / 2e-6, abs=1e-8)
    assert np.abs(gradient).max() > 1e-3


@pytest.mark.parametrize(("k", "num_experts"), [(1, 4), (2, 8)])
def test_thresholds_converge_to_the_batchwise_mask(k, num_experts):
    gate = Batchwise(k=k, num_experts=num_experts)
    gate.build((None, 5))
    rng = np.random.default_rng(3)
    gate.kernels["gate_kernel"].assign(rng.standard_normal((5, num_experts)))
    x = tf.constant(rng.standard_normal((400, 5)), tf.float32)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.05, 300))

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = gate.loss(gate.route(x, training=True).sums)
        gradient = tape.gradient(loss, gate.log_thresholds)
        optimizer.apply_gradients([(gradient, gate.log_thresholds)])
        return loss

    losses = [float(step()) for _ in range(300)]
    assert losses[-1] < 1e-3 * losses[0]
    measures = values_of(gate.measures(gate.route(x, training=True).sums))
    assert measures["threshold_precision"] > 0.98
    assert measures["threshold_recall"] > 0.98
    assert measures["experts_per_token"] == pytest.approx(k, rel=0.02)
    # What is measured in training is what inference then does.
    at_inference = values_of(gate.measures(gate.route(x).sums))
    assert set(at_inference) == {"experts_per_token", "unrouted"}
    for name, value in at_inference.items():
        assert measures[name] == pytest.approx(value, abs=1e-6)


# The layer against the dense formula.

D, HIDDEN = 5, 7
WEIGHTS_OF_OUTPUTS = np.random.default_rng(1).standard_normal((11, D))


def randomised(layer):
    layer.build((None, D))
    rng = np.random.default_rng(2)
    for weight in layer.trainable_weights:
        values = rng.standard_normal(weight.shape)
        if weight.name == "log_thresholds":
            values = rng.uniform(-0.4, 0.2, weight.shape) - np.log(weight.shape[-1])
        weight.assign(values)
    return layer


def expert_outputs(layer, x):
    """`[T, E, D]`: every token through every expert, as plain matrix products."""
    h = tf.repeat(x[:, None, :], layer.num_experts, axis=1)
    experts = layer.experts
    for i, kernel in enumerate(experts.kernels):
        h = tf.einsum("tei,eio->teo", h, tf.convert_to_tensor(kernel))
        h = h + experts.biases[i] if experts.use_bias else h
        h = experts.activation(h) if i < experts.depth else h
    return h


def masked_softmax(probability, mask):
    """Eq 15-16 for every expert; 0 for a token without one."""
    weighted = probability * mask
    total = tf.reduce_sum(weighted, axis=-1, keepdims=True)
    return weighted / tf.where(total > 0, total, tf.ones_like(total))


def flat_dense(layer, k, training):
    def gates(x):
        probability = tf.nn.softmax(x @ layer.gate.kernels["gate_kernel"])
        values = probability.numpy()
        if training:
            mask = batchwise_mask(values, ceil_of(k, len(values), layer.num_experts))
        else:
            mask = values > np.exp(layer.gate.log_thresholds.numpy())
        return masked_softmax(probability, mask.astype("float64"))

    return gates


def hierarchical_dense(layer, k, training):
    primary, secondary = layer.gate.primary, layer.gate.secondary
    groups, per_group = layer.gate.groups, layer.num_experts // layer.gate.groups

    def gates(x):
        probability = tf.nn.softmax(x @ primary.kernels["gate_kernel"])
        num_rows = ceil_of(k, len(x), groups)
        if training:
            mask = batchwise_mask(probability.numpy(), num_rows)
        else:
            mask = (probability.numpy() > np.exp(primary.log_thresholds.numpy())).astype("float64")
        of_group = masked_softmax(probability, mask)
        kernels = tf.convert_to_tensor(secondary.kernels["gate_kernel"])
        parts = []
        for i in range(groups):
            within = tf.nn.softmax(x @ kernels[i])
            rows = np.flatnonzero(mask[:, i])
            if training:
                assert len(rows) == num_rows
                num_taken = ceil_of(k, num_rows, per_group)
                inner = batchwise_mask(within.numpy(), num_taken, rows)
            else:
                over = within.numpy() > np.exp(secondary.log_thresholds.numpy()[i])
                inner = over * mask[:, i, None]
            parts.append(of_group[:, i, None] * masked_softmax(within, inner))
        return tf.concat(parts, axis=1)

    return gates


def dense_gradients(tape, target, sources):
    gradients = tape.gradient(target, sources)
    return [
        tf.zeros(source.shape, tf.float64) if gradient is None else tf.convert_to_tensor(gradient)
        for source, gradient in zip(sources, gradients, strict=True)
    ]


def values_and_gradients(function, variables):
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
        total = tf.reduce_sum(y * WEIGHTS_OF_OUTPUTS)
    return [y, *dense_gradients(tape, total, [x, *variables])]


OPTIONS = {"plain": {}, "recompute": {"recompute": True, "depth": 2, "use_bias": True}}


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(("groups", "k"), [(None, 2), (None, 1), (None, 12), (4, 2), (3, 1)])
def test_layer_equals_the_dense_formula(groups, k, compiled, options, training):
    layer = randomised(
        MoE(12, HIDDEN, gate=Batchwise(k=k), groups=groups, dtype="float64", **options)
    )
    gates_of = (flat_dense if groups is None else hierarchical_dense)(layer, k, training)

    def dense(x):
        return tf.einsum("te,ted->td", gates_of(x), expert_outputs(layer, x))

    def sparse(x):
        return layer(x, training=training)

    variables = layer.trainable_variables
    expected = values_and_gradients(dense, variables)
    if compiled:
        spec = tf.TensorSpec([None, D], tf.float64)

        @tf.function(input_signature=[spec])
        def step(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = sparse(x)
                total = tf.reduce_sum(y * WEIGHTS_OF_OUTPUTS)
            return [y, *dense_gradients(tape, total, [x, *variables])]

        actual = step(tf.constant(X))
    else:
        actual = values_and_gradients(sparse, variables)
    names = ["outputs", "inputs", *(variable.path for variable in variables)]
    for name, a, b in zip(names, actual, expected, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=0, atol=1e-10, err_msg=name)
        # Nothing is equal by being zero, but what the task does not train. (At inference tokens
        # may have one expert each, of the weight 1.)
        if not name.endswith("log_thresholds") and (training or "gate_kernel" not in name):
            assert np.abs(b.numpy()).max() > 1e-3, name
    routing = layer.gate.route(tf.constant(X), training=training)
    gates = dense_gates(routing, 11, 12)
    np.testing.assert_allclose(gates, gates_of(tf.constant(X)).numpy(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(routing.sums["importance"], gates.sum(axis=0), atol=1e-12)
    np.testing.assert_array_equal(routing.sums["load"], chosen(routing, 11, 12).sum(axis=0))


def test_hierarchical_loss_and_measures_are_those_of_both_levels():
    gate = Hierarchical(3, Batchwise(k=2), num_experts=12, dtype="float64")
    gate.build((None, D))
    rng = np.random.default_rng(2)
    for weight in gate.trainable_weights:
        values = rng.standard_normal(weight.shape)
        if weight.name == "log_thresholds":
            values = rng.uniform(-0.4, 0.2, weight.shape) - np.log(weight.shape[-1])
        weight.assign(values)
    routing = gate.route(tf.constant(X), training=True)

    def level(probability, thresholds, taken):
        over = probability > thresholds
        loss = np.sum((over - taken) * (probability - thresholds))
        return np.array([loss, over.sum(), taken.sum(), np.sum(over * taken)])

    probability = probability_of(gate.primary)
    mask = batchwise_mask(probability, 8)  # ⌈2·11/3⌉
    first = level(probability, np.exp(gate.primary.log_thresholds.numpy()), mask)
    second = np.zeros(4)
    for i in range(3):
        rows = np.flatnonzero(mask[:, i])
        within = softmax(X[rows] @ gate.secondary.kernels["gate_kernel"].numpy()[i])
        thresholds = np.exp(gate.secondary.log_thresholds.numpy()[i])
        second += level(within, thresholds, batchwise_mask(within, 4))  # ⌈2·8/4⌉
    # Each level's mean is over its own rows: 11 tokens, 3 groups of 8.
    loss = gate.loss(routing.sums)
    assert loss.numpy() == pytest.approx(first[0] / 11 + second[0] / 24, rel=1e-10)
    precision, recall = ((first[3] / first[j] + second[3] / second[j]) / 2 for j in (1, 2))
    assert values_of(gate.measures(routing.sums)) == pytest.approx(
        {"threshold_precision": precision, "threshold_recall": recall}
    )
    # In evaluation those of the whole: tokens with experts, and their number.
    for level in (gate.primary, gate.secondary):
        level.log_thresholds.assign(level.log_thresholds + 0.6)
    routing = gate.route(tf.constant(X))
    per_token = chosen(routing, 11, 12).sum(axis=1)
    assert 0 < np.count_nonzero(per_token) < 11
    assert values_of(gate.measures(routing.sums)) == pytest.approx(
        {"experts_per_token": per_token.mean(), "unrouted": np.mean(per_token == 0)}
    )


# At inference a token is on its own.


@pytest.mark.parametrize("groups", [None, 3])
def test_output_at_inference_does_not_depend_on_the_rest_of_the_batch(groups):
    layer = randomised(MoE(6, HIDDEN, gate=Batchwise(k=1), groups=groups, dtype="float64"))
    x = np.concatenate([X, np.random.default_rng(4).standard_normal((20, D))])
    whole = layer(x).numpy()
    for tokens in ([3], [0, 1], range(11), [30, 5, 5, 17], range(30, -1, -1)):
        part = layer(x[list(tokens)]).numpy()
        np.testing.assert_allclose(part, whole[list(tokens)], rtol=0, atol=1e-12)
    # In training it does: token 3 on its own is taken by every expert.
    alone = layer(x[3:4], training=True).numpy()
    assert np.abs(alone - layer(x, training=True).numpy()[3]).max() > 1e-3


# The rest.


def test_weights_at_the_start_and_sizes():
    gate = Batchwise(k=2, num_experts=8)
    gate.build((None, 3))
    assert [weight.name for weight in gate.trainable_weights] == ["gate_kernel", "log_thresholds"]
    np.testing.assert_allclose(gate.thresholds.numpy(), 1 / 8, rtol=1e-6)
    assert np.abs(gate.kernels["gate_kernel"].numpy()).min() > 0
    assert gate.count_params() == 3 * 8 + 8
    assert gate.ops_per_timestep(3) == 24
    assert gate.num_selected == 2
    # 2 groups of 4: 3·2 + 2, and 2·(3·4 + 4).
    both = Hierarchical(2, Batchwise(k=2), num_experts=8)
    both.build((None, 3))
    assert both.count_params() == 8 + 32
    assert (both.num_selected, both.ops_per_timestep(3)) == (4, 6 + 2 * 12)
    np.testing.assert_allclose(both.secondary.thresholds.numpy(), np.full((2, 4), 1 / 4), rtol=1e-6)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("groups", [None, 2])
def test_no_tokens(groups, training):
    gate = Batchwise(k=2, importance_weight=1.0)
    gate = gate if groups is None else Hierarchical(groups, gate)
    gate = gate.for_experts(8)
    routing = gate(tf.zeros([0, 3]), training=training)
    assert routing.assignments.weights.shape.num_elements() == 0
    np.testing.assert_array_equal(routing.sums["load"], [0] * 8)
    assert [each.shape for each in routing.assignments.by_token()] == [(0,)] * 3
    if training:
        assert gate.loss(routing.sums).numpy() == 0
    measures = values_of(gate.measures(routing.sums))
    assert measures and all(np.isfinite(value) for value in measures.values())


@pytest.mark.parametrize("groups", [None, 2])
def test_gradients_without_tokens(groups):
    gate = Batchwise(k=2, importance_weight=1.0)
    gate = gate if groups is None else Hierarchical(groups, gate)
    gate = gate.for_experts(8)
    gate.build((None, 3))
    with tf.GradientTape() as tape:
        routing = gate(tf.zeros([0, 3]), training=True)
        weights = routing.assignments.weights
        total = tf.add_n([gate.loss(routing.sums), tf.reduce_sum(weights)])
    for gradient in tape.gradient(total, gate.trainable_variables):
        assert gradient is None or not np.any(tf.convert_to_tensor(gradient).numpy())


def test_built_by_its_first_call_inside_a_function():
    gate = Batchwise(k=2, num_experts=4)
    gates = tf.function(lambda x: gate(x).assignments.weights)(tf.zeros([3, 5]))
    assert gates.dtype == tf.float32
    np.testing.assert_allclose(gate.thresholds.numpy(), 1 / 4, rtol=1e-6)


def test_config_round_trip():
    gate = Batchwise(k=3, importance_weight=0.2, num_experts=6)
    for again in (
        Batchwise.from_config(gate.get_config()),
        gating.get(keras.saving.serialize_keras_object(gate)),
        gate.for_experts(6),
    ):
        assert again.get_config() | {"name": ""} == gate.get_config() | {"name": ""}
        assert (again.k, again.importance_weight) == (3, 0.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, r"k must be an integer of at least 1, got 0"),
        ({"k": 2.0}, r"k must be an integer of at least 1, got 2.0"),
        ({"k": 5, "num_experts": 4}, r"k must be at most 4, the number of experts.*got k=5"),
        ({"importance_weight": -0.1}, r"importance_weight must be .* at least 0, got -0.1"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Batchwise(**arguments)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("primary", "secondary"),
    [(Batchwise(k=2), NoisyTopK(k=2, noise=False)), (Batchwise(k=1), Softmax())],
    ids=["noisy_top_k", "softmax"],
)
def test_as_outer_level_of_another_gate(primary, secondary, training):
    gate = Hierarchical(3, primary, secondary).for_experts(12, dtype="float64")
    gate.build((None, 5))
    rng = np.random.default_rng(2)
    for weight in gate.trainable_weights:
        values = rng.standard_normal(weight.shape)
        if weight.name == "log_thresholds":
            values = rng.uniform(-0.4, 0.2, weight.shape) - np.log(3)
        weight.assign(values)
    routing = gate.route(tf.constant(X), training=training)
    outer = dense_gates(gate.primary.route(tf.constant(X), training=training), 11, 3)
    logits = np.einsum("td,gde->tge", X, gate.secondary.kernels["gate_kernel"].numpy())
    kept = np.sort(logits, axis=-1)[..., -secondary.for_experts(4).num_selected, None]
    inner = softmax(np.where(logits >= kept, logits, -np.inf))
    expected = (outer[:, :, None] * inner).reshape(11, 12)
    np.testing.assert_allclose(dense_gates(routing, 11, 12), expected, rtol=0, atol=1e-12)
    if training:  # only the outer level has thresholds
        own = gate.primary.loss(routing.sums["outer"]).numpy()
        assert gate.loss(routing.sums).numpy() == pytest.approx(own, rel=1e-12)
        assert set(gate.measures(routing.sums)) == {"threshold_precision", "threshold_recall"}
    else:
        unrouted = np.mean(~outer.any(axis=1))
        assert values_of(gate.measures(routing.sums)) == pytest.approx(
            {"experts_per_token": np.count_nonzero(expected) / 11, "unrouted": unrouted}
        )


# One expert.


@pytest.mark.parametrize("training", [False, True])
def test_one_expert_takes_every_token(training):
    """Its probability is 1, which is over no threshold of 1, the initial one."""
    gate = Batchwise(k=1, num_experts=1)
    gate.build((None, 5))
    assert gate.thresholds.numpy() == 1
    routing = gate.route(tf.constant(X, tf.float32), training=training)
    np.testing.assert_array_equal(dense_gates(routing, 11, 1), np.ones([11, 1]))
    measures = values_of(gate.measures(routing.sums))
    if not training:
        assert measures == {"experts_per_token": 1, "unrouted": 0}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("groups", [None, 1])
def test_a_mixture_of_one_expert_is_the_expert(groups, training):
    layer = MoE(1, HIDDEN, gate=Batchwise(k=1), groups=groups, dtype="float64")
    layer.build((None, 5))
    first, second = (kernel.numpy()[0] for kernel in layer.experts.kernels)
    expected = np.maximum(X @ first, 0) @ second
    outputs = layer(tf.constant(X), training=training).numpy()
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-12)
    assert np.abs(expected).max() > 0.1


def test_groups_of_one_expert_each():
    """The secondary gates have nothing to decide: the primary one alone does, as a flat gate."""
    gate = Hierarchical(6, Batchwise(k=2), Batchwise(k=1)).for_experts(6, dtype="float64")
    gate.build((None, 5))
    flat = built_gate(6, k=2)
    gate.primary.kernels["gate_kernel"].assign(flat.kernels["gate_kernel"])
    gate.primary.log_thresholds.assign(flat.log_thresholds)
    for training in (False, True):
        found, expected = (
            dense_gates(each.route(tf.constant(X), training=training), 11, 6)
            for each in (gate, flat)
        )
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
        assert np.count_nonzero(expected) > 11


def test_load_weight_had_no_effect_and_is_no_argument_any_more():
    for make in (
        lambda: Batchwise(load_weight=0.1),
        lambda: gating.get({"name": "batchwise", "load_weight": 0.1}),
    ):
        with pytest.raises(ValueError, match="load_weight"):
            make()
    old = {**Batchwise(k=3).get_config(), "load_weight": 0.1}
    assert Batchwise.from_config(old).k == 3


def test_use_without_a_number_of_experts():
    with pytest.raises(ValueError, match=r"Batchwise was not told num_experts: .*for_experts"):
        Batchwise(k=2)(tf.zeros([2, 3]))


CONFIG = """\
model:
  d_model: 8
  blocks:
    - {name: lstm, units: 8}
    - name: moe
      num_experts: 4
      hidden_units: 16
      gate: {name: batchwise, k: 2}
data: {name: text, train: "train-*.txt"}
"""


def test_in_a_config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    section = load_config(path).model.blocks[1].gate
    gate = gating.get(section.model_dump())
    assert (type(gate), gate.k) == (Batchwise, 2)
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["model.blocks[1].gate.k=5"])
    message = "model.blocks[1].gate.k: must be at most 4, the number of experts"
    assert f"gate.k=5: {message}" in str(caught.value)
    assert load_config(path, ["model.blocks[1].groups=2"]).model.blocks[1].groups == 2
    limited = load_config(path, ["model.blocks[1].capacity_factor=2"]).model.blocks[1]
    assert limited.capacity_factor == 2
