"""The Keras model of Jacobs et al. 1991, and the on-line rule of Jordan and Jacobs 1994."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.classic import LocalExperts
from tfmoe.gating import Hierarchical, Softmax

RNG = np.random.default_rng(0)
X, GATE_X = RNG.standard_normal((7, 3)), RNG.standard_normal((7, 2))
Y = RNG.standard_normal((7, 2))


def dense(count, units=2):
    return [keras.layers.Dense(units, dtype="float64") for _ in range(count)]


def randomized(model, *inputs):
    model(inputs if len(inputs) > 1 else inputs[0])
    rng = np.random.default_rng(1)
    for weight in model.trainable_variables:
        weight.assign(rng.standard_normal(weight.shape))
    return model


def softmax(logits):
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def with_one(x):
    return np.column_stack([x, np.ones(len(x))])


@pytest.mark.parametrize("likelihood", ["gaussian", "categorical"])
def test_values(likelihood):
    model = LocalExperts(dense(4), likelihood, dtype="float64")
    outputs = randomized(model, X, GATE_X)((X, GATE_X))
    gates = softmax(with_one(GATE_X) @ model.gate.gate_kernel.numpy())
    experts = np.stack([X @ e.kernel.numpy() + e.bias.numpy() for e in model.experts], axis=1)
    means = experts if likelihood == "gaussian" else softmax(experts)
    np.testing.assert_allclose(outputs["gates"], gates, rtol=1e-12)
    np.testing.assert_allclose(outputs["experts"], experts, rtol=1e-12)
    np.testing.assert_allclose(
        outputs["mean"], (gates[..., None] * means).sum(axis=1), rtol=1e-10, atol=1e-12
    )


def test_gradient_of_the_hierarchical_mixture_is_the_online_rule():
    """Jordan and Jacobs 1994: with the posteriors `h_i` of a group, `h_j|i` of an expert in it,
    `ΔU_ij ∝ h_i h_j|i (y − μ_ij) xᵀ`, `Δv_i ∝ (h_i − g_i) x`, `Δv_ij ∝ h_i (h_j|i − g_j|i) x`.
    """
    groups, per_group = 2, 3
    gate = Hierarchical(groups, Softmax(), Softmax())
    model = randomized(LocalExperts(dense(6), gate=gate, dtype="float64"), X)
    with tf.GradientTape() as tape:
        loss = len(X) * model.compute_loss(y=Y, y_pred=model(X, training=True))
    kernels = [expert.kernel for expert in model.experts]
    biases = [expert.bias for expert in model.experts]
    primary, secondary = model.gate.primary.gate_kernel, model.gate.secondary.gate_kernel
    gradients = tape.gradient(loss, [kernels, biases, primary, secondary])

    x = with_one(X)
    g_i = softmax(x @ primary.numpy())  # [T, G]
    g_j = softmax(np.einsum("td,gde->tge", x, secondary.numpy()))
    mu = np.stack([X @ k.numpy() + b.numpy() for k, b in zip(kernels, biases, strict=True)], 1)
    errors = (Y[:, None] - mu).reshape(len(X), groups, per_group, 2)
    joint = g_i[..., None] * g_j * np.exp(-0.5 * (errors**2).sum(-1))
    assert float(loss) == pytest.approx(-np.log(joint.sum(axis=(1, 2))).sum(), rel=1e-12)

    h = joint / joint.sum(axis=(1, 2), keepdims=True)
    h_i = h.sum(axis=2)
    h_j = h / h_i[..., None]
    experts = np.einsum("tge,tgen,td->gedn", h_i[..., None] * h_j, errors, x).reshape(6, 4, 2)
    np.testing.assert_allclose(np.stack(gradients[0]), -experts[:, :-1], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(np.stack(gradients[1]), -experts[:, -1], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gradients[2], -x.T @ (h_i - g_i), rtol=1e-9, atol=1e-12)
    within = np.einsum("tg,tge,td->gde", h_i, h_j - g_j, x)
    np.testing.assert_allclose(gradients[3], -within, rtol=1e-9, atol=1e-12)


def test_fit_with_other_inputs_of_the_gate(tmp_path):
    """The slope is z, 1 or -1, which only the gate sees."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x, z = rng.uniform(-1, 1, (256, 1)), rng.choice([-1.0, 1.0], (256, 1))
    y = x * z
    model = LocalExperts([keras.layers.Dense(1) for _ in range(2)], variance=0.05)
    model.compile(keras.optimizers.Adam(0.1), metrics=["mae"])
    history = model.fit([x, z], y, epochs=30, batch_size=256, verbose=0).history
    outputs = model.predict([x, z], verbose=0, batch_size=256)
    assert outputs["experts"].shape == (256, 2, 1) and outputs["gates"].shape == (256, 2)
    assert np.mean((outputs["mean"] - y) ** 2) < 0.05 * np.var(y)
    assert history["loss"][-1] < 0.2 * history["loss"][0]
    assert history["mae"][-1] < 0.3 * history["mae"][0]
    slopes = sorted(float(expert.kernel[0, 0]) for expert in model.experts)
    np.testing.assert_allclose(slopes, [-1, 1], atol=0.1)

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.likelihood_loss.variance == 0.05 and loaded.compiled
    np.testing.assert_allclose(loaded([x, z])["mean"], outputs["mean"], rtol=1e-5, atol=1e-6)


def test_classification_in_keras():
    model = LocalExperts([keras.layers.Dense(3) for _ in range(2)], "categorical")
    model.compile("adam", metrics=["accuracy"])
    labels = np.array([0, 1, 2, 0, 1, 2, 0])
    results = model.evaluate(X, labels, return_dict=True, verbose=0)
    outputs = model(X)
    picked = tf.nn.softmax(outputs["experts"]).numpy()[np.arange(7), :, labels]
    expected = -np.log((outputs["gates"] * picked).numpy().sum(axis=1)).mean()
    assert results["loss"] == pytest.approx(expected, rel=1e-5)
    right = outputs["mean"].numpy().argmax(axis=1) == labels
    assert results["accuracy"] == pytest.approx(right.mean())


def test_losses_of_the_gate_and_of_regularizers_are_added():
    experts = [keras.layers.Dense(2, kernel_regularizer=keras.regularizers.L2(0.5)) for _ in "ab"]
    model = randomized(LocalExperts(experts, gate=Softmax(importance_weight=0.3)), X)
    outputs = model(X, training=True)
    importance = outputs["gates"].numpy().sum(axis=0)
    squares = sum(float(tf.reduce_sum(expert.kernel**2)) for expert in experts)
    added = 0.3 * importance.var() / importance.mean() ** 2 + 0.5 * squares
    likelihood = float(model.likelihood_loss(Y, outputs))
    assert float(model.compute_loss(y=Y, y_pred=outputs)) == pytest.approx(likelihood + added, 1e-5)


@pytest.mark.slow
def test_two_replicas_train_as_one_device():
    def trained():
        keras.utils.set_random_seed(0)
        model = LocalExperts(dense(4), gate=Hierarchical(2, "softmax"), dtype="float64")
        model.compile(keras.optimizers.SGD(0.1))
        data = tf.data.Dataset.from_tensor_slices((X[:6], Y[:6])).batch(6).repeat(3)
        losses = model.fit(data, verbose=0).history["loss"]
        return losses, [weight.numpy() for weight in model.trainable_variables]

    losses, weights = trained()
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        replica_losses, replica_weights = trained()
    np.testing.assert_allclose(replica_losses, losses, rtol=1e-6)
    for actual, expected in zip(replica_weights, weights, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


def compiled_with_a_loss():
    model = LocalExperts(dense(2))
    model.compile(loss="mse")
    return model


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: LocalExperts([]), r"experts must be a list of Keras layers, got \[\]"),
        (lambda: LocalExperts(4), "experts must be a list of Keras layers, got 4"),
        (lambda: LocalExperts(dense(1) * 2), "experts must be different layers"),
        (lambda: LocalExperts(dense(2), gate="switch"), "gate must select all experts"),
        (lambda: LocalExperts(dense(2), gate="soft"), "gate must be .*did you mean 'softmax'"),
        (lambda: LocalExperts(dense(2), variance=0), "variance must be a finite number above 0"),
        (lambda: LocalExperts(dense(2), "normal"), "likelihood must be one of"),
        (lambda: LocalExperts(dense(1, 2) + dense(1, 3))(X), r"one shape .*\(7, 2\), \(7, 3\)"),
        (lambda: LocalExperts(dense(2))((X, X[:, 0])), r"gate inputs .* 2 dimensions, .*\(7,\)"),
        (lambda: compiled_with_a_loss().compute_loss(), "without a loss, got loss='mse'"),
    ],
)
def test_errors(function, message):
    with pytest.raises(ValueError, match=message):
        function()
