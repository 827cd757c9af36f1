import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe import gating
from tfmoe.gating import Groups, NoisyTopK
from tfmoe.ops import balancing, routing

X = np.random.default_rng(0).standard_normal((7, 3))


def built_gate(num_experts, seed=5, **arguments):
    """A float64 gate with random kernels, the same in every call."""
    gate = NoisyTopK(num_experts=num_experts, seed=seed, dtype="float64", **arguments)
    gate.build((None, X.shape[1]))
    rng = np.random.default_rng(2)
    for kernel in gate.kernels.values():
        kernel.assign(rng.standard_normal(kernel.shape))
    return gate


def first_draw(gate, shape):
    """The noise of the gate's next training step."""
    generator = keras.random.SeedGenerator(gate.seed)
    return keras.random.normal(shape, dtype="float64", seed=generator).numpy()


def route_with_first_draw(gate, x=X):
    gate.seed_generator.state.assign([gate.seed, 0])
    return gate.route(tf.constant(x), training=True)


def choices(routed):
    """`[T, K]` experts and `[T, K]` weights, in the order of the choices of each token."""
    assignments = routed.assignments
    return [
        tf.gather(values, assignments.slots).numpy()
        for values in (assignments.experts(), assignments.weights)
    ]


def kernel_values(gate):
    return gate.kernels["gate_kernel"].numpy(), gate.kernels["noise_kernel"].numpy()


def softplus(x):
    return np.log1p(np.exp(x))


def test_kernels_start_at_zero():
    gate = NoisyTopK(k=2, num_experts=4)
    gate.build((None, 3))
    assert [weight.name for weight in gate.trainable_weights] == ["gate_kernel", "noise_kernel"]
    for weight in gate.trainable_weights:
        assert weight.shape == (3, 4)
        np.testing.assert_array_equal(weight.numpy(), 0)


def test_evaluation_selects_the_top_k_clean_logits():
    gate = built_gate(5, k=2)
    routed = gate.route(tf.constant(X), training=False)
    experts, weights = choices(routed)
    logits = X @ kernel_values(gate)[0]
    np.testing.assert_array_equal(experts, np.argsort(-logits, axis=1, kind="stable")[:, :2])
    highest = np.exp(-np.sort(-logits, axis=1)[:, :2])
    expected = highest / highest.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(weights, expected, rtol=1e-12)
    assert set(routed.sums) == {"tokens", "importance", "load"}


@pytest.mark.parametrize("noise_floor", [0.0, 0.5])
def test_selection_in_training_by_the_equations(noise_floor):
    gate = built_gate(5, k=2, noise_floor=noise_floor)
    gate_kernel, noise_kernel = kernel_values(gate)
    stddev = softplus(X @ noise_kernel) + noise_floor
    noisy = X @ gate_kernel + first_draw(gate, (7, 5)) * stddev
    routed = route_with_first_draw(gate)
    selected = np.argsort(-noisy, axis=1)[:, :2]
    np.testing.assert_array_equal(choices(routed)[0], selected)
    dense = np.zeros((7, 5))  # eq 4 and 5
    for t in range(7):
        weights = np.exp(noisy[t, selected[t]])
        dense[t, selected[t]] = weights / weights.sum()
    np.testing.assert_allclose(routed.sums["importance"], dense.sum(axis=0), rtol=1e-10)
    np.testing.assert_array_equal(routed.sums["load"], np.count_nonzero(dense, axis=0))
    load = np.zeros(5)  # eq 8 to 10
    for t in range(7):
        for i in range(5):
            kth_excluding = np.sort(np.delete(noisy[t], i))[-2]
            z = (X[t] @ gate_kernel[:, i] - kth_excluding) / stddev[t, i]
            load[i] += routing.normal_cdf(tf.constant(z)).numpy()
    np.testing.assert_allclose(routed.sums["smooth_load"], load, rtol=1e-10)


def test_loss_by_hand():
    gate = built_gate(5, k=2, importance_weight=0.3, load_weight=0.07)
    sums = route_with_first_draw(gate).sums
    importance, load = sums["importance"].numpy(), sums["smooth_load"].numpy()
    expected = 0.3 * importance.var() / importance.mean() ** 2
    expected += 0.07 * load.var() / load.mean() ** 2
    assert gate.loss(sums).numpy() == pytest.approx(expected, rel=1e-12)
    # A hierarchical mixture has its own importance and load losses.
    assert gate.loss_as_level(sums) is None


def test_no_loss_without_weights():
    gate = built_gate(5, k=2, importance_weight=0, load_weight=0)
    assert gate.loss(route_with_first_draw(gate).sums) is None


@pytest.mark.parametrize(
    "gate", [NoisyTopK(), gating.get("noisy_top_k"), gating.get({"name": "noisy_top_k", "k": 2})]
)
def test_default_weights_are_those_of_the_papers_language_models(gate):
    assert (gate.importance_weight, gate.load_weight) == (0.1, 0.1)


def test_without_noise_only_the_importance_loss_is_on_by_default():
    gate = NoisyTopK(noise=False)
    assert (gate.importance_weight, gate.load_weight) == (0.1, 0)


def test_a_load_weight_without_noise_is_refused():
    assert NoisyTopK(noise=False, load_weight=0).load_weight == 0
    message = (
        r"load_weight must be 0 with noise=False, got 0.2: .*importance_weight, noise=True, or"
    )
    with pytest.raises(ValueError, match=message):
        NoisyTopK(noise=False, load_weight=0.2)
    with pytest.raises(ValueError, match=message):
        gating.get({"name": "noisy_top_k", "noise": False, "load_weight": 0.2})


def test_an_old_configuration_with_a_load_weight_and_no_noise_loads():
    config = {"k": 2, "importance_weight": 0.0, "load_weight": 0.2, "noise": False}
    with pytest.warns(UserWarning, match="load_weight=0.2 of a gate without noise is read as 0"):
        gate = NoisyTopK.from_config(config)
    assert (gate.importance_weight, gate.load_weight, gate.noise) == (0, 0, False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gate = NoisyTopK.from_config({**config, "load_weight": 0.0})
        assert (gate.importance_weight, gate.load_weight) == (0, 0)
        gate = NoisyTopK.from_config({**config, "noise": True})
        assert (gate.importance_weight, gate.load_weight) == (0, 0.2)


@pytest.mark.parametrize(("importance_weight", "load_weight"), [(1.0, 0.0), (0.0, 1.0), (0.5, 2.0)])
@pytest.mark.parametrize("k", [2, 4])
def test_loss_gradients_against_finite_differences(k, importance_weight, load_weight):
    gate = built_gate(5, k=k, importance_weight=importance_weight, load_weight=load_weight)
    gate_kernel, noise_kernel = kernel_values(gate)
    noisy = X @ gate_kernel + first_draw(gate, (7, 5)) * softplus(X @ noise_kernel)
    assert np.diff(np.sort(noisy, axis=1), axis=1).min() > 1e-4  # no ties within the step size
    with tf.GradientTape() as tape:
        loss = gate.loss(route_with_first_draw(gate).sums)
    gradients = tape.gradient(loss, gate.trainable_variables)
    for weight, gradient in zip(gate.trainable_variables, gradients, strict=True):
        values = weight.numpy()
        expected = np.zeros_like(values)
        for i in np.ndindex(values.shape):
            sides = []
            for step in (1e-6, -1e-6):
                shifted = values.copy()
                shifted[i] += step
                weight.assign(shifted)
                sides.append(gate.loss(route_with_first_draw(gate).sums).numpy())
            expected[i] = (sides[0] - sides[1]) / 2e-6
        weight.assign(values)
        np.testing.assert_allclose(gradient.numpy(), expected, atol=1e-8)
        assert np.abs(expected).max() > 1e-3


def test_load_is_the_count_if_all_experts_are_selected():
    gate = built_gate(3, k=3, importance_weight=0.0, load_weight=1.0)
    with tf.GradientTape() as tape:
        sums = route_with_first_draw(gate).sums
        loss = gate.loss(sums)
    assert "smooth_load" not in sums
    np.testing.assert_array_equal(sums["load"], [7, 7, 7])
    assert loss.numpy() == 0
    for gradient in tape.gradient(loss, gate.trainable_variables):
        assert gradient is None or not np.any(gradient.numpy())


@pytest.mark.parametrize("training", [False, True])
def test_load_is_the_count_without_noise(training):
    gate = built_gate(5, k=2, noise=False)
    assert list(gate.kernels) == ["gate_kernel"]
    routed = gate.route(tf.constant(X), training=training)
    assert "smooth_load" not in routed.sums
    counts = np.bincount(choices(routed)[0].ravel(), minlength=5)
    np.testing.assert_array_equal(routed.sums["load"], counts)
    # Only the importance loss is left.
    importance = routed.sums["importance"].numpy()
    expected = 0.1 * importance.var() / importance.mean() ** 2
    assert gate.loss(routed.sums).numpy() == pytest.approx(expected, rel=1e-12)


def test_load_is_the_count_in_evaluation():
    gate = built_gate(5, k=2)
    routed = gate.route(tf.constant(X), training=False)
    assert "smooth_load" not in routed.sums
    counts = np.bincount(choices(routed)[0].ravel(), minlength=5)
    np.testing.assert_array_equal(routed.sums["load"], counts)


def test_k_1_warns_and_only_the_load_loss_trains_the_gate():
    with pytest.warns(UserWarning, match=r"k=1.*Switch"):
        gate = built_gate(5, k=1)
    with tf.GradientTape(persistent=True) as tape:
        routed = route_with_first_draw(gate)
        importance_loss = balancing.importance_loss(routed.sums)
        load_loss = balancing.load_loss(routed.sums)
    np.testing.assert_array_equal(routed.assignments.weights, 1)
    kernel = gate.kernels["gate_kernel"]
    np.testing.assert_allclose(tape.gradient(importance_loss, kernel).numpy(), 0, atol=1e-12)
    assert np.abs(tape.gradient(load_loss, kernel).numpy()).max() > 1e-3


def test_one_expert_or_k_2_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        NoisyTopK(k=1, num_experts=1).build((None, 3))
        NoisyTopK(k=2, num_experts=3).build((None, 3))


def test_noise_spreads_the_load_at_initialization():
    gate = NoisyTopK(k=2, num_experts=4, seed=1)
    x = tf.random.stateless_normal([4000, 3], [1, 2])
    load = np.bincount(choices(gate(x, training=True))[0].ravel(), minlength=4)
    np.testing.assert_allclose(load, 2000, atol=150)  # standard deviation √(4000/4) = 32
    np.testing.assert_array_equal(choices(gate(x))[0], [[0, 1]] * 4000)


def test_noise_changes_in_every_step_and_is_reproducible():
    first, second = (built_gate(5, k=2, seed=3) for _ in range(2))
    a, b = (choices(first(tf.constant(X), training=True))[1] for _ in range(2))
    assert np.abs(a - b).max() > 1e-3
    np.testing.assert_array_equal(a, choices(second(tf.constant(X), training=True))[1])


def test_empty_batch():
    gate = built_gate(5, k=2, importance_weight=1.0, load_weight=1.0)
    routed = gate(tf.zeros([0, 3], tf.float64), training=True)
    assert routed.assignments.slots.shape == (0, 2)
    assert routed.assignments.weights.shape == (0,)
    for name in ("load", "smooth_load", "importance"):
        np.testing.assert_array_equal(routed.sums[name], np.zeros(5))
    assert gate.loss(routed.sums).numpy() == 0


@pytest.mark.parametrize("equal", [False, True])
def test_gates_of_groups_equal_separate_gates(equal):
    """Compares one gate for three groups with three gates, with the same noise for each row."""
    sizes = [2, 2, 2] if equal else [3, 0, 4]
    x = X[: sum(sizes)]
    groups = Groups(tf.constant(sizes), tf.constant(2) if equal else None)
    gate = built_gate(5, k=2, num_groups=3, importance_weight=0.3, load_weight=0.07)
    gate.seed_generator.state.assign([gate.seed, 0])
    routed = gate.route(tf.constant(x), training=True, groups=groups)
    draw = first_draw(gate, (len(x), 5))
    experts, weights = choices(routed)
    losses = gate.loss(routed.sums)
    start = 0
    for g, size in enumerate(sizes):
        rows = slice(start, start + size)
        single = built_gate(5, k=2, importance_weight=0.3, load_weight=0.07)
        for name, kernel in single.kernels.items():
            kernel.assign(gate.kernels[name].numpy()[g])
        single.draw = lambda inputs, rows=rows: tf.constant(draw[rows])
        expected = single.route(tf.constant(x[rows]), training=True)
        expected_experts, expected_weights = choices(expected)
        np.testing.assert_array_equal(experts[rows], g * 5 + expected_experts)
        np.testing.assert_allclose(weights[rows], expected_weights, rtol=1e-12)
        assert set(routed.sums) == set(expected.sums)
        for name, values in expected.sums.items():
            np.testing.assert_allclose(routed.sums[name][g], values, rtol=1e-12, err_msg=name)
        assert losses[g].numpy() == pytest.approx(single.loss(expected.sums).numpy(), rel=1e-10)
        start += size


def test_deviation_of_the_noise():
    gate = built_gate(5, k=2, noise_floor=0.5)
    expected = np.mean(softplus(X @ kernel_values(gate)[1]) + 0.5)
    deviation = gate.noise_deviation(tf.constant(X))
    assert deviation["noise"].numpy() == pytest.approx(expected, rel=1e-12)
    assert set(deviation) == {"noise"}
    assert built_gate(5, k=2, noise=False).noise_deviation(tf.constant(X)) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, r"k must be an integer of at least 1, got 0"),
        ({"k": 2.0}, r"k must be an integer of at least 1, got 2.0"),
        ({"k": True}, r"k must be an integer of at least 1, got True"),
        ({"k": 5, "num_experts": 4}, r"k must be at most 4, the number of experts.*got k=5"),
        ({"importance_weight": -0.1}, r"importance_weight must be .* at least 0, got -0.1"),
        ({"load_weight": float("nan")}, r"load_weight must be .* at least 0, got nan"),
        ({"load_weight": float("inf")}, r"load_weight must be a finite number .*, got inf"),
        ({"load_weight": "0.1"}, r"load_weight must be .* at least 0, got '0.1'"),
        ({"noise_floor": -1}, r"noise_floor must be .* at least 0, got -1"),
        ({"num_experts": 0}, r"num_experts must be an integer of at least 1, got 0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        NoisyTopK(**arguments)


def test_use_without_num_experts():
    with pytest.raises(ValueError, match=r"NoisyTopK has no num_experts: .*for_experts"):
        NoisyTopK(k=2)(tf.zeros([2, 3]))
