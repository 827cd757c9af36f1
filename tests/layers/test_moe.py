import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.analysis.variables import parameters_of
from tfmoe.gating import Batchwise, Hierarchical, NoisyTopK, Softmax
from tfmoe.layers import MoE
from tfmoe.layers.expert_metrics import METRICS

pytestmark = pytest.mark.filterwarnings("ignore:NoisyTopK with k=1")
D = 5


def randomised(layer, input_dim=D):
    layer.build((None, input_dim))
    rng = np.random.default_rng(2)
    for weight in layer.trainable_weights:
        weight.assign(rng.standard_normal(weight.shape))
    return layer


def metric_values(layer):
    """Those that were measured since the last time."""
    values = {name: float(value) for name, value in layer.expert_metrics.result().items()}
    layer.expert_metrics.reset_state()
    return values


def run(layer, inputs, training, **options):
    """Calls a layer as a step does: a plain call measures in training only."""
    return tf.distribute.get_strategy().run(lambda: layer(inputs, training=training, **options))


def set_thresholds(layer, times_mean):
    """Thresholds of a layer with `Batchwise`: a multiple of 1/E at each level."""
    for weight in layer.trainable_weights:
        if weight.name == "log_thresholds":
            weight.assign(np.full(weight.shape, np.log(times_mean / weight.shape[-1])))


def rewind_noise(layer):
    for variable in layer.non_trainable_variables:
        if "seed_generator" in variable.path:
            variable.assign([9, 0])


# Padding.

MASK = np.array([[True, True, False, False], [True, False, False, True]])


@pytest.mark.parametrize("capacity_factor", [None, 0.75])
@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize("training", [False, True])
def test_masked_positions_count_nowhere(groups, training, capacity_factor):
    gate = NoisyTopK(k=2, importance_weight=0.3, load_weight=0.2)
    factors = {"capacity_factor": capacity_factor, "evaluation_capacity_factor": capacity_factor}
    layer = randomised(MoE(4, 7, gate=gate, groups=groups, name="moe", **factors))
    x = np.random.default_rng(0).standard_normal((2, 4, D)).astype("float32")
    rewind_noise(layer)
    expected = run(layer, x[MASK], training).numpy()
    expected_losses, expected_metrics = [v.numpy() for v in layer.losses], metric_values(layer)
    padded = np.where(MASK[..., None], x, np.nan).astype("float32")
    rewind_noise(layer)
    outputs = run(layer, padded, training, mask=tf.constant(MASK)).numpy()
    np.testing.assert_array_equal(outputs[MASK], expected)
    np.testing.assert_array_equal(outputs[~MASK], 0)
    np.testing.assert_array_equal([v.numpy() for v in layer.losses], expected_losses)
    assert len(expected_losses) == (1 if training else 0)
    assert metric_values(layer) == expected_metrics
    assert expected_metrics["moe_max_over_mean_load"] >= 1


def test_masked_positions_get_no_gradient():
    layer = randomised(MoE(4, 7, gate=NoisyTopK(k=2)))
    x = tf.random.stateless_normal([2, 4, D], [1, 2])
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(layer(x, mask=tf.constant(MASK)) ** 2)
    gradient = tape.gradient(total, x).numpy()
    np.testing.assert_array_equal(gradient[~MASK], 0)
    assert np.all(np.abs(gradient[MASK]).max(axis=-1) > 0)


@pytest.mark.parametrize("groups", [None, 2])
def test_batch_of_nothing_but_padding(groups):
    gate = NoisyTopK(k=2, importance_weight=0.3, load_weight=0.2)
    layer = randomised(MoE(4, 7, gate=gate, groups=groups, capacity_factor=1.0))
    with tf.GradientTape() as tape:
        y = layer(tf.ones([2, 3, D]), mask=tf.zeros([2, 3], tf.bool), training=True)
        total = tf.reduce_sum(y) + sum(layer.losses)
    np.testing.assert_array_equal(y.numpy(), np.zeros([2, 3, D]))
    assert total.numpy() == 0
    for gradient in tape.gradient(total, layer.trainable_variables):
        assert gradient is None or np.all(np.isfinite(tf.convert_to_tensor(gradient).numpy()))
    assert all(np.isfinite(value) for value in metric_values(layer).values())


@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize("training", [False, True])
def test_masked_positions_count_nowhere_in_strictly_balanced_gating(groups, training):
    gate = Batchwise(k=2, importance_weight=0.3)
    layer = randomised(MoE(6, 7, gate=gate, groups=groups, name="moe"))
    set_thresholds(layer, 1.0)
    x = np.random.default_rng(0).standard_normal((2, 4, D)).astype("float32")
    x[~MASK] = 100 * x[MASK]  # far higher logits: they would be taken first
    expected = run(layer, x[MASK], training).numpy()
    expected_losses, expected_metrics = [v.numpy() for v in layer.losses], metric_values(layer)
    outputs = run(layer, x, training, mask=tf.constant(MASK)).numpy()
    np.testing.assert_array_equal(outputs[MASK], expected)
    np.testing.assert_array_equal(outputs[~MASK], 0)
    np.testing.assert_array_equal([v.numpy() for v in layer.losses], expected_losses)
    assert len(expected_losses) == (1 if training else 0)
    assert metric_values(layer) == expected_metrics
    own = {"threshold_precision", "threshold_recall"} if training else {"unrouted"}
    assert {f"moe_{name}" for name in own} <= set(expected_metrics)


@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize("training", [False, True])
def test_batch_of_nothing_but_padding_in_strictly_balanced_gating(groups, training):
    layer = randomised(MoE(4, 7, gate=Batchwise(k=2, importance_weight=0.3), groups=groups))
    with tf.GradientTape() as tape:
        y = run(layer, tf.ones([2, 3, D]), training, mask=tf.zeros([2, 3], tf.bool))
        total = tf.reduce_sum(y) + sum(layer.losses)
    np.testing.assert_array_equal(y.numpy(), np.zeros([2, 3, D]))
    assert total.numpy() == 0
    for gradient in tape.gradient(total, layer.trainable_variables):
        assert gradient is None or not np.any(tf.convert_to_tensor(gradient).numpy())
    assert all(np.isfinite(value) for value in metric_values(layer).values())


def test_mask_of_the_first_axes_covers_the_others():
    layer = randomised(MoE(4, 7, gate=NoisyTopK(k=2)))
    x = tf.random.stateless_normal([2, 4, 3, D], [1, 2])
    full = np.broadcast_to(MASK[:, :, None], [2, 4, 3])
    expected = layer(x, mask=tf.constant(full)).numpy()
    np.testing.assert_array_equal(layer(x, mask=tf.constant(MASK)).numpy(), expected)
    assert np.abs(expected[MASK]).min(axis=-1).max() > 0


def test_mask_of_an_embedding_reaches_the_layer_and_goes_on():
    inputs = keras.Input([None], dtype="int32")
    embedded = keras.layers.Embedding(9, D, mask_zero=True)(inputs)
    moe = MoE(4, 7, gate=NoisyTopK(k=2))
    outputs = moe(embedded)
    assert outputs._keras_mask is not None
    y = keras.Model(inputs, outputs)(np.array([[3, 4, 0], [5, 0, 0]])).numpy()
    np.testing.assert_array_equal(y[[0, 1, 1], [2, 1, 2]], 0)
    assert np.abs(y[[0, 0, 1], [0, 1, 0]]).max(axis=-1).min() > 0


# Capacity and metrics.


def two_expert_layer(capacity_factor, **options):
    """Tokens (1, 0) go to expert 0, tokens (0, 1) to expert 1."""
    gate = NoisyTopK(k=1, noise=False)
    options["capacity_factor"] = capacity_factor
    layer = randomised(MoE(2, 7, gate=gate, name="moe", **options), 2)
    layer.gate.kernels["gate_kernel"].assign(np.eye(2))
    return layer


FOUR_TOKENS = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [3.0, 0.0]], "float32")


@pytest.mark.parametrize(
    ("capacity_factor", "dropped_tokens", "loads"),
    [
        # Expert 0 is sent tokens 0, 1, 3 and expert 1 token 2. Rows an expert takes:
        (None, [], (3, 1)),
        (2.0, [], (3, 1)),  # ceil(2·4/2) = 4
        (1.25, [], (3, 1)),  # ceil(1.25·4/2) = 3
        (1.0, [3], (2, 1)),  # 2
        (0.5, [1, 3], (1, 1)),  # 1
        (1e-6, [1, 3], (1, 1)),  # still 1
    ],
)
def test_capacity_by_hand(capacity_factor, dropped_tokens, loads):
    expected = two_expert_layer(None)(FOUR_TOKENS).numpy()
    expected[dropped_tokens] = 0
    layer = two_expert_layer(capacity_factor)
    with tf.GradientTape() as tape:
        y = layer(FOUR_TOKENS, training=True)
        total = tf.reduce_sum(y**2)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-6)
    for gradient in tape.gradient(total, layer.experts.trainable_variables):
        assert np.all(np.isfinite(gradient.numpy()))
    values = metric_values(layer)
    assert values["moe_dropped"] == pytest.approx(len(dropped_tokens) / 4)
    assert values["moe_max_over_mean_load"] == pytest.approx(max(loads) / np.mean(loads))
    assert values["moe_cv_load"] == pytest.approx(np.std(loads) / np.mean(loads))
    # Importance is of the gate's choice, 3 and 1: mean 2, standard deviation 1.
    assert values["moe_cv_importance"] == pytest.approx(0.5)


@pytest.mark.parametrize("priority", ["position", "choice", "weight"])
def test_capacity_priority_by_hand(priority):
    """Experts 0 and 1 take one of their two tokens each: `⌈0.5·4/2⌉`."""
    gate = NoisyTopK(k=2, noise=False)
    options = {"capacity_factor": 0.5, "capacity_priority": priority, "name": "moe"}
    layer, whole = (
        randomised(MoE(2, 7, gate=gate, **each), 2) for each in (options, {"name": "whole"})
    )
    for each in (layer, whole):
        each.gate.kernels["gate_kernel"].assign(np.eye(2))
    x = np.array([[0.0, 1.0], [5.0, 0.0]], "float32")
    # Token 0 prefers expert 1, token 1 expert 0, more strongly. In the order of the batch token 0
    # has both; else each token has its first choice.
    kept = [[1, 1], [0, 0]] if priority == "position" else [[0, 1], [1, 0]]
    weights = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    outputs = np.stack([expert_by_numpy(whole, i, x) for i in range(2)], axis=1)
    expected = np.sum((weights * kept)[:, :, None] * outputs, axis=1)
    np.testing.assert_allclose(layer(x, training=True), expected, rtol=1e-5)
    assert metric_values(layer)["moe_dropped"] == 0.5
    # Outside of training nothing is dropped.
    np.testing.assert_array_equal(run(layer, x, False), whole(x))
    assert metric_values(layer)["moe_dropped"] == 0


def expert_by_numpy(layer, i, x):
    first, second = (kernel.numpy()[i] for kernel in layer.experts.kernels)
    return np.maximum(x @ first, 0) @ second


@pytest.mark.parametrize("training", [False, True])
def test_factors_of_capacity_act_in_training_and_in_evaluation(training):
    expected = two_expert_layer(None)(FOUR_TOKENS).numpy()
    for factors in ((0.5, None), (None, 0.5), (1.0, 0.5)):
        layer = two_expert_layer(factors[0], evaluation_capacity_factor=factors[1])
        factor = factors[0] if training else factors[1]
        # Expert 0 is sent tokens 0, 1, 3: it takes ⌈factor·4/2⌉.
        dropped = {None: [], 0.5: [1, 3], 1.0: [3]}[factor]
        y = run(layer, FOUR_TOKENS, training).numpy()
        np.testing.assert_array_equal(y[dropped], 0)
        kept = np.setdiff1d(range(4), dropped)
        np.testing.assert_allclose(y[kept], expected[kept], rtol=1e-6)
        assert np.abs(expected).min(axis=1).max() > 0
        assert metric_values(layer)["moe_dropped"] == len(dropped) / 4


def test_capacity_of_strictly_balanced_gating_by_hand():
    """Each of two experts has two of four tokens, and takes `⌈0.5·4/2⌉` of them, the first."""
    layer, whole = (
        randomised(MoE(2, 7, gate=Batchwise(k=1), name="moe", capacity_factor=factor), 2)
        for factor in (0.5, None)
    )
    for each in (layer, whole):
        each.gate.kernels["gate_kernel"].assign(np.eye(2))
    x = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 1.0]], "float32")
    expected = whole(x, training=True).numpy()  # tokens 0 and 2 to expert 0, 1 and 3 to expert 1
    expected[2:] = 0
    np.testing.assert_allclose(layer(x, training=True), expected, rtol=1e-6)
    assert metric_values(layer)["moe_dropped"] == 0.5


@pytest.mark.parametrize("training", [False, True])
def test_metrics_by_hand_and_their_mean_over_batches(training):
    layer = two_expert_layer(None)
    # Loads 3 and 1: CV 0.5, largest 1.5 of the mean.
    run(layer, FOUR_TOKENS, training)
    # Loads 1 and 0: CV 1, largest 2, half of the experts unused.
    run(layer, FOUR_TOKENS[:1], training)
    values = metric_values(layer)
    assert values == pytest.approx(
        {
            "moe_cv_importance": 0.75,
            "moe_cv_load": 0.75,
            "moe_max_over_mean_load": 1.75,
            "moe_unused_experts": 0.25,
            "moe_dropped": 0.0,
        }
    )


@pytest.mark.parametrize("groups", [None, 3])
@pytest.mark.parametrize("training", [False, True])
def test_token_that_no_expert_took_gives_zero(groups, training):
    layer = randomised(MoE(6, 7, gate=Batchwise(k=1), groups=groups, use_bias=True, name="moe"))
    set_thresholds(layer, 4.0 if groups is None else 1.5)
    x = tf.random.stateless_normal([40, D], [1, 2])
    tokens = layer.gate.route(x, training=training).assignments.by_token()[0].numpy()
    unrouted = np.setdiff1d(np.arange(40), tokens)
    assert 0 < len(unrouted) < 40
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = run(layer, x, training)
        total = tf.reduce_sum(y**2)
    np.testing.assert_array_equal(y.numpy()[unrouted], 0)
    assert np.all(np.abs(y.numpy()[tokens]).max(axis=1) > 0)
    gradient = tf.convert_to_tensor(tape.gradient(total, x)).numpy()
    np.testing.assert_array_equal(gradient[unrouted], 0)
    values = metric_values(layer)
    assert values["moe_dropped"] == 0
    if training:
        assert values["moe_cv_load"] == values["moe_unused_experts"] == 0
        assert values["moe_max_over_mean_load"] == 1
    else:
        assert values["moe_unrouted"] == pytest.approx(len(unrouted) / 40)
        assert values["moe_experts_per_token"] == pytest.approx(len(tokens) / 40)
        assert not {"moe_threshold_precision", "moe_threshold_recall"} & set(values)


def test_losses_are_those_of_the_last_call_and_of_training_only():
    layer = randomised(MoE(4, 7, gate=NoisyTopK(k=2, importance_weight=1.0, load_weight=1.0)))
    x = tf.random.stateless_normal([6, D], [1, 2])
    layer(x, training=True)
    layer(x, training=True)
    assert len(layer.losses) == 1
    assert layer.losses[0].numpy() > 0
    layer(x)
    assert layer.losses == []


# Sizes.


def test_operations_and_parameters_of_the_papers_layers():
    # MoE-256: 4 of 256 experts of 2·512·1024, and two gate matrices of 512·256.
    flat = MoE(256, 1024, gate=NoisyTopK(k=4))
    assert flat.ops_per_timestep(512) == 4 * 1_048_576 + 262_144
    assert parameters_of(flat, (None, 512)) == 256 * 1_048_576 + 262_144
    # MoE-4096-h: 16 groups of 256, k = 2 and 2: 2·512·16 + 2·2·512·256; weights 2·512·16·256.
    deep = MoE(4096, 1024, groups=16, gate=NoisyTopK(k=2))
    assert deep.ops_per_timestep(512) == 4 * 1_048_576 + 16_384 + 524_288
    assert parameters_of(deep, (None, 512)) == 4096 * 1_048_576 + 16_384 + 4_194_304
    # Softmax has one matrix and evaluates every expert; depth adds h², biases add to the weights.
    dense = MoE(3, 8, gate=Softmax(), depth=2, use_bias=True)
    assert dense.ops_per_timestep(5) == 3 * (5 * 8 + 8 * 8 + 8 * 5) + 15
    assert parameters_of(dense, (None, 5)) == 3 * (5 * 8 + 8 * 8 + 8 * 5 + 8 + 8 + 5) + 15


@pytest.mark.parametrize(
    ("gate", "groups"),
    [
        *itertools.product(
            [NoisyTopK(k=2), NoisyTopK(k=2, noise=False), Softmax(), Batchwise(k=2)], [None, 2]
        ),
        ("switch", None),
    ],
)
@pytest.mark.parametrize("options", [{}, {"depth": 3, "use_bias": True}])
def test_parameters_are_those_of_the_built_layer(gate, groups, options):
    layer = MoE(4, 7, gate=gate, groups=groups, **options)
    expected = parameters_of(layer, (None, None, D))
    assert layer.weights == []  # counting has built nothing
    layer.build((None, None, D))
    assert expected == sum(weight.shape.num_elements() for weight in layer.trainable_weights)


# Initial values.


@pytest.mark.parametrize("initializer", ["glorot_uniform", "he_normal", "lecun_uniform"])
def test_every_expert_is_initialised_like_one_dense_layer(initializer):
    keras.utils.set_random_seed(1)
    layer = MoE(8, 128, gate=NoisyTopK(k=2), kernel_initializer=initializer)
    layer.build((None, 64))
    for kernel in layer.experts.kernels:
        dense = keras.layers.Dense(kernel.shape[2], kernel_initializer=initializer)
        dense.build((None, kernel.shape[1]))
        expected = dense.kernel.numpy()
        for expert in kernel.numpy():
            assert expert.std() == pytest.approx(expected.std(), rel=0.03)
            assert np.abs(expert).max() == pytest.approx(np.abs(expected).max(), rel=0.1)


def test_experts_differ_and_gates_start_at_zero():
    layer = MoE(4, 8, gate=NoisyTopK(k=2))
    layer.build((None, D))
    for kernel in layer.experts.kernels:
        flat = kernel.numpy().reshape(4, -1)
        assert np.abs(np.corrcoef(flat) - np.eye(4)).max() < 0.6
    for kernel in layer.gate.kernels.values():
        np.testing.assert_array_equal(kernel.numpy(), 0)


def test_layers_that_are_given_one_gate_share_nothing():
    gate = NoisyTopK(k=2)
    first, second = MoE(4, 8, gate=gate), MoE(6, 8, gate=gate)
    for layer in (first, second):
        layer.build((None, D))
        assert layer.gate is not gate
    assert gate.num_experts is None
    assert not gate.built
    ids = [{id(weight) for weight in layer.weights} for layer in (first, second)]
    assert not ids[0] & ids[1]


def test_names_count_up():
    first, second = MoE(2, 4, gate="softmax"), MoE(2, 4, gate="softmax")
    assert first.name.startswith("moe")
    assert second.name.startswith("moe_")
    assert first.name != second.name
    names = list(second.expert_metrics.result())
    assert names == [f"{second.name}_{name}" for name in METRICS]


def test_compiler_is_left_off_where_it_cannot_work():
    # On a GPU Keras compiles a model by XLA unless one of its layers says no.
    model = keras.Sequential([keras.Input((D,)), MoE(4, 8)])
    model.compile("sgd", "mse", jit_compile="auto")
    assert model.jit_compile in (False, "auto")
    assert not any(layer.supports_jit for layer in model.layers if isinstance(layer, MoE))


# Wrong arguments.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_experts": 0}, r"num_experts must be an integer of at least 1, got 0"),
        ({"num_experts": 4.0}, r"num_experts must be an integer of at least 1, got 4.0"),
        ({"num_experts": None}, r"num_experts must be an integer of at least 1, got None"),
        ({"hidden_units": -3}, r"hidden_units must be an integer of at least 1, got -3"),
        ({"hidden_units": "7"}, r"hidden_units must be an integer of at least 1, got '7'"),
        ({"depth": 0}, r"depth must be an integer of at least 1, got 0"),
        ({"gate": NoisyTopK(k=9)}, r"k must be at most 8, the number of experts.*got k=9"),
        ({"gate": {"name": "noisy_top_k", "k": 9}}, r"k must be at most 8.*got k=9"),
        ({"num_experts": 2}, r"k must be at most 2.*got k=4"),  # the default gate's k
        ({"gate": "noisy"}, r"gate must be .* got 'noisy'"),
        ({"gate": "sofmax"}, r"got 'sofmax'; did you mean 'softmax'"),
        ({"gate": 3}, r"gate must be .* got 3"),
        ({"groups": 3}, r"groups must divide num_experts=8, got groups=3; .*1, 2, 4, 8"),
        ({"groups": 0}, r"groups must be an integer of at least 1, got 0"),
        ({"groups": 2}, r"k must be at most 2, .*groups.*got k=4"),
        ({"groups": 4}, r"k must be at most 2, .*got k=4"),
        ({"groups": 2, "gate": Hierarchical(2, Softmax())}, r"primary must be a gate for a level"),
        ({"capacity_factor": 0}, r"capacity_factor must be .* above 0, got 0"),
        ({"capacity_factor": -1.0}, r"capacity_factor must be .* above 0, got -1.0"),
        ({"capacity_factor": "1"}, r"capacity_factor must be .* above 0, got '1'"),
        ({"capacity_factor": float("inf")}, r"capacity_factor must be a finite .*got inf"),
        ({"gate": Batchwise(k=9)}, r"k must be at most 8, .*got k=9"),
        ({"gate": Batchwise(k=3), "groups": 2}, r"k must be at most 2, .*groups.*got k=3"),
        ({"evaluation_capacity_factor": 0}, r"evaluation_capacity_factor must be .* 0, got 0"),
        (
            {"capacity_priority": "size"},
            r"capacity_priority must be one of 'position', 'choice', 'weight', got 'size'",
        ),
        ({"metrics": 1}, r"metrics must be True or False, got 1"),
        ({"activation": "relly"}, r"relly"),
        ({"unknown": 1}, r"unknown"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        MoE(**{"num_experts": 8, "hidden_units": 7, **arguments})


@pytest.mark.parametrize("initializer", ["orthogonal", "identity"])
def test_initializer_that_would_mix_experts(initializer):
    with pytest.raises(ValueError, match=r"kernel_initializer must .*got"):
        MoE(4, 8, kernel_initializer=initializer).build((None, 8))


def test_wrong_last_dimension():
    layer = MoE(4, 8)
    layer(tf.zeros([2, D]))
    with pytest.raises(ValueError, match=r'"?moe.*expected axis -1 .*value 5.*shape \(2, 6\)'):
        layer(tf.zeros([2, 6]))


def test_unknown_last_dimension():
    with pytest.raises(ValueError, match=r"moe.* known last dimension, got shape \(None, None\)"):
        MoE(4, 8).build((None, None))


def test_input_without_a_token_axis():
    with pytest.raises(ValueError, match=r"at least two axes|min_ndim=2"):
        MoE(4, 8)(tf.zeros([D]))
