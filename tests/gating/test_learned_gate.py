"""The options of all gates with logits: z-loss, jitter and a hidden layer.

Axes: T tokens, E experts, D model, G groups.
"""

import numpy as np
import pytest
import tensorflow as tf

from tfmoe.gating import Batchwise, Groups, Hierarchical, NoisyTopK, Softmax, Switch
from tfmoe.gating.copies import SEED_DISTANCE

X = np.random.default_rng(0).standard_normal((6, 3))
GATES = {
    "softmax": Softmax,
    "switch": Switch,
    "noisy_top_k": lambda **options: NoisyTopK(2, 0, 0, **options),
    "batchwise": lambda **options: Batchwise(k=2, **options),
}


@pytest.fixture(params=GATES)
def make(request):
    return GATES[request.param]


def built(gate, num_experts=4, **changes):
    """A float64 copy of a gate, with random weights that are the same in every call."""
    gate = gate.for_experts(num_experts, dtype="float64", **changes)
    gate.build((None, 3))
    rng = np.random.default_rng(1)
    for weight in gate.trainable_weights:
        weight.assign(rng.standard_normal(weight.shape))
    return gate


def z_loss(logits):
    """The mean over tokens of `(log Σ exp(logit))²`."""
    return np.mean(np.log(np.exp(logits).sum(axis=1)) ** 2)


def training_loss(gate, as_level=False, **options):
    """The loss of a training step, 0 for none."""
    sums = gate.route(tf.constant(X), training=True, **options).sums
    loss = gate.loss_as_level(sums) if as_level else gate.loss(sums)
    return 0.0 if loss is None else loss.numpy()


def test_z_loss_and_its_gradient_by_hand():
    # Logits (0, 0) and (log 3, 0): log Σ exp is log 2 and log 4.
    gate = Switch(balance_weight=0.0, z_loss_weight=0.5).for_experts(2, dtype="float64")
    gate.build((None, 2))
    gate.gate_kernel.assign(np.eye(2))
    x = tf.constant([[0.0, 0.0], [np.log(3), 0.0]], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = gate.loss(gate(x, training=True).sums)
    log_z = np.log([[2], [4]])
    assert loss.numpy() == pytest.approx(0.5 * np.mean(log_z**2), rel=1e-12)
    # The gradient is 2/T · log Σ exp · softmax.
    expected = 0.5 * 2 / 2 * log_z * [[1 / 2, 1 / 2], [3 / 4, 1 / 4]]
    np.testing.assert_allclose(tape.gradient(loss, x), expected, rtol=1e-12)


def test_z_loss_is_added_to_the_other_losses(make):
    gate, other = built(make(z_loss_weight=0.7)), built(make())
    expected = 0.7 * z_loss(X @ gate.gate_kernel.numpy())
    for as_level in (False, True):
        difference = training_loss(gate, as_level) - training_loss(other, as_level)
        assert difference == pytest.approx(expected, rel=1e-10)


def test_z_loss_of_an_empty_batch_is_0():
    gate = built(Softmax(z_loss_weight=1.0))
    assert gate.loss(gate(tf.zeros([0, 3], tf.float64), training=True).sums).numpy() == 0


def test_z_loss_of_the_groups_of_an_inner_level(make):
    """It is the mean over the groups, which have 4 and 2 tokens."""
    groups = Groups(tf.constant([4, 2]))
    gate, other = (built(make(z_loss_weight=weight), 2, num_groups=2) for weight in (0.7, 0.0))
    kernel = gate.gate_kernel.numpy()
    expected = 0.7 * (z_loss(X[:4] @ kernel[0]) + z_loss(X[4:] @ kernel[1])) / 2
    losses = [np.mean(training_loss(each, as_level=True, groups=groups)) for each in (gate, other)]
    assert losses[0] - losses[1] == pytest.approx(expected, rel=1e-10)


def test_z_loss_at_both_levels_of_a_hierarchical_gate():
    gate = built(Hierarchical(2, Softmax(z_loss_weight=0.3), Softmax(z_loss_weight=0.7)))
    outer, inner = gate.primary.gate_kernel.numpy(), gate.secondary.gate_kernel.numpy()
    expected = 0.3 * z_loss(X @ outer) + 0.7 * (z_loss(X @ inner[0]) + z_loss(X @ inner[1])) / 2
    assert training_loss(gate) == pytest.approx(expected, rel=1e-10)


def test_jitter_multiplies_the_inputs_in_training(make):
    gate = built(make(jitter=0.25, seed=3))
    x = tf.constant(X)
    np.testing.assert_array_equal(gate.features(x), X)
    factors = gate.features(x, training=True).numpy() / X
    assert 0.75 <= factors.min() < 0.85 and 1.15 < factors.max() <= 1.25
    assert len(np.unique(factors)) == X.size
    # The same seed draws the same numbers, further copies other ones.
    same = built(make(jitter=0.25, seed=3)).features(x, training=True)
    np.testing.assert_array_equal(same, factors * X)
    source = make(jitter=0.25, seed=3)
    copies = [built(source) for _ in range(2)]
    assert copies[1].seed == 3 + SEED_DISTANCE
    drawn = [each.features(x, training=True).numpy() for each in copies]
    assert np.abs(drawn[0] - drawn[1]).max() > 0.01


def test_jitter_changes_the_logits(make):
    gate = built(make(jitter=0.25, z_loss_weight=1.0))
    draw = np.random.default_rng(2).uniform(-1, 1, X.shape)
    gate.draw_jitter = lambda inputs: tf.constant(draw)
    sums = gate.route(tf.constant(X), training=True).sums
    logits = X * (1 + 0.25 * draw) @ gate.gate_kernel.numpy()
    actual = sums["squared_logsumexp"].numpy() / len(X)
    assert actual == pytest.approx(z_loss(logits), rel=1e-12)


def test_without_jitter_there_is_no_random_generator():
    assert Switch(num_experts=2).seed_generator is None
    assert not [weight for weight in built(Softmax()).weights if "seed" in weight.path]


def test_hidden_layer_against_numpy(make):
    gate = built(make(gate_hidden_units=5, z_loss_weight=1.0))
    assert gate.hidden_kernel.shape == (3, 5) and gate.gate_kernel.shape == (5, 4)
    hidden = np.maximum(X @ gate.hidden_kernel.numpy(), 0)
    np.testing.assert_allclose(gate.features(tf.constant(X)), hidden, rtol=1e-12)
    sums = gate.route(tf.constant(X), training=True).sums
    actual = sums["squared_logsumexp"].numpy() / len(X)
    assert actual == pytest.approx(z_loss(hidden @ gate.gate_kernel.numpy()), rel=1e-12)


@pytest.mark.parametrize("size", [None, 3], ids=["any sizes", "equal sizes"])
def test_hidden_layer_of_groups(make, size):
    gate = built(make(gate_hidden_units=5), 2, num_groups=2)
    groups = Groups(tf.constant([3, 3]), None if size is None else tf.constant(size))
    kernel = gate.hidden_kernel.numpy()
    expected = np.maximum(np.concatenate([X[:3] @ kernel[0], X[3:] @ kernel[1]]), 0)
    actual = gate.features(tf.constant(X), groups=groups)
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def test_the_hidden_layer_starts_with_outputs_of_the_scale_of_its_inputs():
    gate = Softmax(num_experts=2, num_groups=4, gate_hidden_units=64)
    gate.build((None, 128))
    assert np.std(gate.hidden_kernel.numpy()) == pytest.approx((2 / 128) ** 0.5, rel=0.05)


def test_costs():
    gate = NoisyTopK(k=2, num_experts=4, gate_hidden_units=5)
    assert gate.ops_per_timestep(3) == 3 * 5 + 2 * 5 * 4
    assert gate.kept_for_backward(3) == 4 * (3 + 5 + 4 * 2 * 4)
    jittered = Switch(num_experts=4, jitter=0.1)
    assert jittered.kept_for_backward(3) == 4 * (3 * 3 + 4 * 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"z_loss_weight": -1}, "z_loss_weight must be a finite number of at least 0, got -1"),
        ({"jitter": 1.0}, "jitter must be a number of at least 0 and below 1, got 1.0"),
        ({"gate_hidden_units": 0}, "gate_hidden_units must be an integer of at least 1, got 0"),
    ],
)
def test_wrong_options(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_config_round_trip(make):
    options = {"z_loss_weight": 0.1, "jitter": 0.2, "gate_hidden_units": 5, "seed": 3}
    gate = make(**options)
    config = type(gate).from_config(gate.get_config()).get_config()
    assert config == gate.get_config() and options.items() <= config.items()
    # A configuration of a version without these options.
    old = {name: value for name, value in config.items() if name not in options}
    assert type(gate).from_config(old).get_config().items() >= {"jitter": 0.0}.items()
