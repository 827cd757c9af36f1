import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe import gating
from tfmoe.gating import Gate, Hierarchical, NoisyTopK, Softmax, Switch
from tfmoe.layers import MoE
from tfmoe.ops import balancing, routing

X = np.random.default_rng(0).standard_normal((9, 3))


def built_gate(num_experts, input_dim=3, **arguments):
    """A float64 gate with random kernels, the same in every call."""
    gate = Hierarchical(num_experts=num_experts, dtype="float64", **arguments)
    gate.build((None, input_dim))
    rng = np.random.default_rng(2)
    for weight in gate.trainable_weights:
        weight.assign(rng.standard_normal(weight.shape))
    return gate


def route_with_first_draw(gate):
    for level in (gate.primary, gate.secondary):
        level.seed_generator.state.assign(level.first_state)
    return gate.route(tf.constant(X), training=True)


def dense_weights(routed, num_experts):
    """The weights as `[T, E]`; every assignment must be unique."""
    tokens, experts, weights = (values.numpy() for values in routed.assignments.by_token())
    assert len({*zip(tokens, experts, strict=True)}) == len(tokens)
    dense = np.zeros((routed.assignments.num_tokens.numpy(), num_experts))
    dense[tokens, experts] = weights
    return dense


def smooth_load(gate, routed):
    """`Load_H` of eq 14, as in the gate's loss."""
    outer, inner = routed.sums["outer"], routed.sums["inner"]
    return balancing.hierarchical_load(
        outer.get("smooth_load", outer["load"]),
        inner.get("smooth_load", inner["load"]),
        inner["tokens"],
    ).numpy()


def save_noise_state(gate):
    for level in (gate.primary, gate.secondary):
        level.first_state = level.seed_generator.state.numpy()
    return gate


def test_dense_importance_by_hand():
    gate = built_gate(4, input_dim=2, groups=2, primary=Softmax())
    gate.primary.kernels["gate_kernel"].assign([[math.log(3), 0], [0, math.log(4)]])
    gate.secondary.kernels["gate_kernel"].assign(
        [[[math.log(4), 0], [0, 0]], [[0, math.log(9)], [math.log(3), 0]]]
    )
    # Token (1, 0): groups 3/4, 1/4; experts within the groups (4/5, 1/5) and (1/10, 9/10).
    # Token (0, 1): groups 1/5, 4/5; experts within the groups (1/2, 1/2) and (3/4, 1/4).
    routed = gate(tf.eye(2, dtype=tf.float64))
    expected = [[0.6, 0.15, 0.025, 0.225], [0.1, 0.1, 0.6, 0.2]]
    np.testing.assert_allclose(dense_weights(routed, 4), expected, rtol=1e-12)
    importance = routed.sums["importance"]
    np.testing.assert_allclose(importance, [0.7, 0.25, 0.625, 0.425], rtol=1e-12)
    np.testing.assert_array_equal(routed.sums["load"], [2, 2, 2, 2])
    assert routed.sums["tokens"].numpy() == 2


@pytest.mark.filterwarnings("ignore:NoisyTopK with k=1")
def test_sparse_selection_by_hand():
    # The first two inputs are the logits of the groups; the others are the logits within a group.
    gate = built_gate(6, input_dim=5, groups=2, primary=NoisyTopK(k=1, noise=False),
                      secondary=NoisyTopK(k=2, noise=False))  # fmt: skip
    gate.primary.kernels["gate_kernel"].assign(np.eye(5)[:, :2])
    gate.secondary.kernels["gate_kernel"].assign([np.eye(5)[:, 2:]] * 2)
    x = tf.constant([[0, 1, math.log(3), -9, 0], [2, 1, 0, 0, 1]], tf.float64)
    routed = gate(x)
    # Token 0: group 1 (experts 3 to 5), experts 0 and 2 in it with 3/4, 1/4.
    # Token 1: group 0, expert 2 in it with e / (1 + e), and expert 0, the lower id in a tie.
    high = math.e / (1 + math.e)
    expected = [[0, 0, 0, 0.75, 0, 0.25], [1 - high, 0, high, 0, 0, 0]]
    np.testing.assert_allclose(dense_weights(routed, 6), expected)
    np.testing.assert_array_equal(routed.sums["load"], [1, 0, 1, 1, 0, 1])


def level_by_numpy(logits, stddev, draw, k):
    """Dense gates `[T, E]` and P `[T, E]` of one noisy top-k gate, token by token."""
    noisy = logits + draw * stddev
    gates, probability = np.zeros_like(noisy), np.zeros_like(noisy)
    for t, row in enumerate(noisy):
        selected = np.argsort(-row)[:k]
        gates[t, selected] = np.exp(row[selected]) / np.exp(row[selected]).sum()
        for i in range(len(row)):
            z = (logits[t, i] - np.sort(np.delete(row, i))[-k]) / stddev[t, i]
            probability[t, i] = routing.normal_cdf(tf.constant(z)).numpy()
    return gates, probability


def test_noisy_importance_and_load_by_the_equations():
    groups, per_group, k = 4, 3, 2
    gate = save_noise_state(built_gate(12, groups=groups, primary=NoisyTopK(k=k, seed=3)))
    routed = route_with_first_draw(gate)

    def kernel(level, name):
        return level.kernels[name].numpy()

    def draws(level, shape):
        generator = keras.random.SeedGenerator(0)
        generator.state.assign(level.first_state)
        return keras.random.normal(shape, dtype="float64", seed=generator).numpy()

    def softplus(x):
        return np.log1p(np.exp(x))

    primary, primary_p = level_by_numpy(
        X @ kernel(gate.primary, "gate_kernel"),
        softplus(X @ kernel(gate.primary, "noise_kernel")),
        draws(gate.primary, (9, groups)),
        k,
    )
    secondary_draw = draws(gate.secondary, (9 * k, per_group))  # rows sorted by group, then token
    importance, load, start = [], [], 0
    for i in range(groups):
        members = np.flatnonzero(primary[:, i] > 0)
        rows = X[members]
        gates, probability = level_by_numpy(
            rows @ kernel(gate.secondary, "gate_kernel")[i],
            softplus(rows @ kernel(gate.secondary, "noise_kernel")[i]),
            secondary_draw[start : start + len(members)],
            k,
        )
        start += len(members)
        importance.extend((primary[members, i, None] * gates).sum(axis=0))  # eq 13
        load.extend(primary_p[:, i].sum() * probability.sum(axis=0) / len(members))  # eq 14
    np.testing.assert_allclose(routed.sums["importance"], importance, rtol=1e-10)
    np.testing.assert_allclose(smooth_load(gate, routed), load, rtol=1e-10)
    weights = dense_weights(routed, 12)
    np.testing.assert_allclose(weights.sum(axis=0), importance, rtol=1e-10)
    np.testing.assert_array_equal(routed.sums["load"], np.count_nonzero(weights, axis=0))


@pytest.mark.parametrize(("importance_weight", "load_weight"), [(1.0, 0.0), (0.0, 1.0)])
def test_loss_gradients_against_finite_differences(importance_weight, load_weight):
    primary = NoisyTopK(k=2, seed=3, importance_weight=importance_weight, load_weight=load_weight)
    gate = save_noise_state(built_gate(9, groups=3, primary=primary))
    with tf.GradientTape() as tape:
        loss = gate.loss(route_with_first_draw(gate).sums)
    gradients = tape.gradient(loss, gate.trainable_variables)
    assert len(gradients) == 4
    rng = np.random.default_rng(1)
    for weight, gradient in zip(gate.trainable_variables, gradients, strict=True):
        values = weight.numpy()
        assert np.abs(gradient.numpy()).max() > 1e-3
        for flat in rng.choice(values.size, 9, replace=False):
            i = np.unravel_index(flat, values.shape)
            sides = []
            for step in (1e-6, -1e-6):
                shifted = values.copy()
                shifted[i] += step
                weight.assign(shifted)
                sides.append(gate.loss(route_with_first_draw(gate).sums).numpy())
            weight.assign(values)
            expected = (sides[0] - sides[1]) / 2e-6
            assert gradient.numpy()[i] == pytest.approx(expected, abs=1e-8), (weight.path, i)


def test_load_is_the_primary_load_if_all_experts_of_a_group_are_selected():
    # k = 2 of 2 within a group: every expert has the count |X⁽ⁱ⁾|, so Load_H = Load_primary.
    gate = save_noise_state(built_gate(8, groups=4, primary=NoisyTopK(k=2, seed=3)))
    load = smooth_load(gate, route_with_first_draw(gate)).reshape(4, 2)
    gate.primary.seed_generator.state.assign(gate.primary.first_state)
    expected = gate.primary.route(tf.constant(X), training=True).sums["smooth_load"].numpy()
    np.testing.assert_allclose(load, np.stack([expected, expected], axis=1), rtol=1e-12)


def test_loss_over_all_experts_by_hand():
    primary = NoisyTopK(k=2, seed=3, importance_weight=0.3, load_weight=0.07)
    gate = save_noise_state(built_gate(12, groups=4, primary=primary))
    routed = route_with_first_draw(gate)
    importance, load = routed.sums["importance"].numpy(), smooth_load(gate, routed)
    expected = 0.3 * importance.var() / importance.mean() ** 2
    expected += 0.07 * load.var() / load.mean() ** 2
    assert gate.loss(routed.sums).numpy() == pytest.approx(expected, rel=1e-12)
    no_weights = Hierarchical(4, primary, importance_weight=0, load_weight=0).for_experts(12)
    assert no_weights.loss(routed.sums) is None


@pytest.mark.parametrize(
    ("primary", "secondary", "weights"),
    [
        (NoisyTopK(k=2), None, (0.1, 0.1)),
        (NoisyTopK(2, 0, 0), None, (0, 0)),
        # The larger of the weights of the two gates.
        (NoisyTopK(2, 0.2, 0.01), NoisyTopK(2, 0.02, 0.1), (0.2, 0.1)),
        (Switch(), NoisyTopK(k=2), (0.1, 0.1)),
        # Without noise the load has no gradient.
        (NoisyTopK(k=2, noise=False), Softmax(), (0.1, 0)),
        (Switch(load_weight=0.3), None, (0, 0)),
    ],
)
def test_default_weights(primary, secondary, weights):
    gate = Hierarchical(4, primary, secondary)
    assert (gate.importance_weight, gate.load_weight) == weights


def test_a_load_weight_without_noise():
    message = r"load_weight must be 0 if no level draws noise, got 0.2: .*a NoisyTopK at one level"
    with pytest.raises(ValueError, match=message):
        Hierarchical(4, Switch(), load_weight=0.2)
    config = Hierarchical(4, Switch(), NoisyTopK(k=2)).get_config()
    assert Hierarchical.from_config(config).load_weight == 0.1
    config["secondary"]["config"]["noise"] = False  # as in a file of an earlier version
    with pytest.warns(UserWarning, match="load_weight=0.1 of a gate without noise is read as 0"):
        gate = Hierarchical.from_config(config)
    assert (gate.load_weight, gate.secondary.load_weight) == (0, 0)


def test_load_loss_without_an_estimate_uses_the_counts():
    """In evaluation no noise is drawn."""
    primary = NoisyTopK(k=2, importance_weight=0, load_weight=0.07)
    gate = built_gate(12, groups=4, primary=primary)
    routed = gate.route(tf.constant(X))
    load = np.count_nonzero(dense_weights(routed, 12), axis=0)
    expected = 0.07 * load.var() / load.mean() ** 2
    assert gate.loss(routed.sums).numpy() == pytest.approx(expected, rel=1e-12)


def test_loss_weights_override_those_of_the_primary_gate():
    primary = NoisyTopK(k=2, importance_weight=0.3, load_weight=0.07)
    assert Hierarchical(2, primary).load_weight == 0.07
    gate = Hierarchical(2, primary, importance_weight=0.5, load_weight=0.0)
    assert (gate.importance_weight, gate.load_weight) == (0.5, 0.0)


def test_levels_with_one_seed_draw_different_noise():
    gate = built_gate(16, groups=4, primary=NoisyTopK(k=2, seed=3))
    states = [level.seed_generator.state.numpy() for level in (gate.primary, gate.secondary)]
    assert np.any(states[0] != states[1])


def test_kernels_start_at_zero_with_one_secondary_gate_per_group():
    gate = Hierarchical(2, NoisyTopK(k=2), num_experts=6)
    gate.build((None, 5))
    shapes = [tuple(weight.shape) for weight in gate.trainable_weights]
    assert shapes == [(5, 2), (5, 2), (2, 5, 3), (2, 5, 3)]
    assert not any(np.any(weight.numpy()) for weight in gate.trainable_weights)
    # Parameters 2·5·2 + 2·2·5·3; operations 2·5·2 + 2 groups · 2·5·3.
    assert gate.count_params() == 80
    assert gate.ops_per_timestep(5) == 80
    # k = 1 at the first level halves the operations of the second level; the weights are the same.
    gate = Hierarchical(2, NoisyTopK(k=1), NoisyTopK(k=2), num_experts=6)
    gate.build((None, 5))
    assert (gate.count_params(), gate.ops_per_timestep(5)) == (80, 50)


def test_empty_batch():
    gate = built_gate(8, groups=4, primary=NoisyTopK(k=2, importance_weight=1.0, load_weight=1.0))
    routed = gate(tf.zeros([0, 3], tf.float64), training=True)
    assert routed.assignments.weights.shape == (0,)
    assert routed.assignments.num_tokens.numpy() == 0
    assert gate.loss(routed.sums).numpy() == 0


def test_config_round_trip_keeps_both_levels():
    gate = Hierarchical(2, NoisyTopK(k=1, seed=4), NoisyTopK(k=2, noise=False), num_experts=6)
    restored = gating.get(keras.saving.serialize_keras_object(gate))
    assert restored.get_config() == gate.get_config()
    assert (restored.primary.k, restored.secondary.k, restored.secondary.noise) == (1, 2, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": 3}, r"groups must divide num_experts=8, got groups=3; .*1, 2, 4, 8"),
        ({"groups": 0}, r"groups must be an integer of at least 1, got 0"),
        ({"groups": 2.0}, r"groups must be an integer of at least 1, got 2.0"),
        ({"primary": NoisyTopK(k=5)}, r"k must be at most 4, the number of .* got k=5"),
        ({"secondary": NoisyTopK(k=3)}, r"k must be at most 2, the number of .* got k=3"),
        ({"primary": Hierarchical(2, Softmax())}, r"primary must be a gate for a level"),
        ({"secondary": Hierarchical(2, Softmax())}, r"secondary must be a gate for a level"),
        ({"primary": "noisy_topk"}, r"primary must be a Gate .* did you mean 'noisy_top_k'"),
        (
            {"secondary": {"name": "hierarchical", "groups": 2, "primary": "softmax"}},
            r"secondary must be a Gate or one of .*'batchwise'.*, got {'name': 'hierarchical'",
        ),
        ({"num_groups": 2}, r"cannot be a level"),
        ({"load_weight": -1}, r"load_weight must be"),
    ],
)
def test_wrong_arguments(arguments, message):
    defaults = {"groups": 4, "primary": NoisyTopK(k=2), "num_experts": 8}
    with pytest.raises(ValueError, match=message):
        Hierarchical(**{**defaults, **arguments})


def test_use_without_num_experts():
    with pytest.raises(ValueError, match=r"Hierarchical has no num_experts"):
        Hierarchical(2, NoisyTopK(k=2))(tf.zeros([2, 3]))


@keras.saving.register_keras_serializable("test_hierarchical")
class Estimating(Gate):
    """A gate with a load loss of its own, which does not say that it estimates the load."""

    num_selected = 1

    def __init__(self, load_weight=0.2, **kwargs):
        super().__init__(**kwargs)
        self.load_weight = load_weight

    def route(self, inputs, training=False, groups=None):
        logits = self.logits("gate_kernel", inputs, groups)
        weights, experts = tf.math.top_k(tf.sigmoid(logits), 1)
        load = {"smooth_load": tf.nn.softmax(logits)} if training else {}
        return self.routing_of_tokens(experts, weights, groups, **load)

    def get_config(self):
        return {**super().get_config(), "load_weight": self.load_weight}


@pytest.mark.parametrize(
    "options",
    [{"gate": Estimating(), "groups": 2}, {"gate": Hierarchical(2, Estimating(), load_weight=0.2)}],
)
def test_a_gate_of_a_user_may_estimate_its_load(options):
    layer = MoE(4, 8, **options)
    layer(np.random.default_rng(0).normal(size=[32, 6]).astype("float32"), training=True)
    assert layer.gate.load_weight == 0.2
    assert len(layer.losses) == 1 and float(layer.losses[0]) > 0
    assert Hierarchical.from_config(layer.gate.get_config()).load_weight == 0.2
