"""The likelihood of a mixture: hand-computed values, and gradients by the posterior."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tfmoe.classic import (
    MixtureLoss,
    categorical_log_likelihoods,
    gaussian_log_likelihoods,
    mixture_loss,
    posteriors,
)

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((6, 3))
OUTPUTS = RNG.standard_normal((6, 3, 4))
TARGETS = RNG.standard_normal((6, 4))
LABELS = np.array([0, 3, 2, 1, 1, 0])


def value_and_gradients(log_likelihoods, logits, outputs):
    """The losses, the posteriors, and the gradients of the sum for the logits and the outputs."""
    logits, outputs = tf.constant(logits, tf.float64), tf.constant(outputs, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch([logits, outputs])
        each = log_likelihoods(outputs)
        losses = mixture_loss(logits, each)
    gradients = tape.gradient(losses, [logits, outputs])
    return [value.numpy() for value in (losses, posteriors(logits, each), *gradients)]


def softmax(logits):
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def test_gaussian_by_hand():
    # p = (1/4, 3/4), d = 1, o = (1, 3): l = (0, -2), likelihood 1/4 + 3/4 e^-2 = 0.351501.
    h = np.array([0.25, 0.75 * math.exp(-2)]) / 0.3515014624
    loss, posterior, gates, outputs = value_and_gradients(
        lambda o: gaussian_log_likelihoods(o, [[1.0]]), [[0, math.log(3)]], [[[1.0], [3.0]]]
    )
    np.testing.assert_allclose(loss, [1.0455414], rtol=1e-6)
    np.testing.assert_allclose(posterior, [h], rtol=1e-9)
    np.testing.assert_allclose(gates, [[0.25 - h[0], 0.75 - h[1]]], rtol=1e-8)
    np.testing.assert_allclose(outputs, [[[0], [2 * h[1]]]], rtol=1e-8)


def test_categorical_by_hand():
    # p = (1/4, 3/4); the label's probabilities are 1/2 and 3/4: likelihood 1/8 + 9/16 = 11/16.
    loss, posterior, gates, outputs = value_and_gradients(
        lambda o: categorical_log_likelihoods(o, [1]),
        [[0, math.log(3)]],
        [[[0, 0], [0, math.log(3)]]],
    )
    np.testing.assert_allclose(loss, [math.log(16 / 11)])
    np.testing.assert_allclose(posterior, [[2 / 11, 9 / 11]])
    np.testing.assert_allclose(gates, [[1 / 4 - 2 / 11, 3 / 4 - 9 / 11]])
    np.testing.assert_allclose(outputs, [[[1 / 11, -1 / 11], [9 / 44, -9 / 44]]])


@pytest.mark.parametrize("variance", [1.0, 0.3])
def test_gaussian_gradient_is_the_posterior_formula(variance):
    errors = TARGETS[:, None] - OUTPUTS
    p = softmax(LOGITS)
    joint = p * np.exp(-0.5 * (errors**2).sum(-1) / variance)
    h = joint / joint.sum(axis=1, keepdims=True)
    loss, posterior, gates, outputs = value_and_gradients(
        lambda o: gaussian_log_likelihoods(o, TARGETS, variance), LOGITS, OUTPUTS
    )
    np.testing.assert_allclose(loss, -np.log(joint.sum(axis=1)), rtol=1e-12)
    np.testing.assert_allclose(posterior, h, rtol=1e-12)
    np.testing.assert_allclose(gates, p - h, atol=1e-13)
    np.testing.assert_allclose(outputs, -h[..., None] * errors / variance, atol=1e-13)


def test_categorical_gradient_is_the_posterior_formula():
    p, q = softmax(LOGITS), softmax(OUTPUTS)
    one_hot = np.eye(4)[LABELS][:, None]
    joint = p * (q * one_hot).sum(-1)
    h = joint / joint.sum(axis=1, keepdims=True)
    for labels in (LABELS, LABELS[:, None].astype("float32")):
        loss, posterior, gates, outputs = value_and_gradients(
            lambda o, labels=labels: categorical_log_likelihoods(o, labels), LOGITS, OUTPUTS
        )
        np.testing.assert_allclose(loss, -np.log(joint.sum(axis=1)), rtol=1e-12)
        np.testing.assert_allclose(posterior, h, rtol=1e-12)
        np.testing.assert_allclose(gates, p - h, atol=1e-13)
        np.testing.assert_allclose(outputs, -h[..., None] * (one_hot - q), atol=1e-13)


def test_log_probabilities_are_logits():
    each = gaussian_log_likelihoods(tf.constant(OUTPUTS), TARGETS)
    probabilities = np.log(softmax(LOGITS))
    np.testing.assert_allclose(mixture_loss(LOGITS, each), mixture_loss(probabilities, each))
    np.testing.assert_allclose(posteriors(LOGITS, each), posteriors(probabilities, each))


def test_distant_targets_do_not_underflow():
    loss, posterior, *_ = value_and_gradients(
        lambda o: gaussian_log_likelihoods(o, [[1000.0]]), [[0.0, 0.0]], [[[0.0], [1.0]]]
    )
    np.testing.assert_allclose(loss, [999**2 / 2 + math.log(2)])
    np.testing.assert_allclose(posterior, [[0, 1]])


def test_loss_weighs_rows_and_accepts_a_probability_of_0():
    outputs = {"gates": tf.constant([[1.0, 0.0], [0.5, 0.5]]), "experts": tf.zeros([2, 2, 1])}
    targets = tf.constant([1.0, 2.0])  # losses 1/2 and 2
    assert float(MixtureLoss()(targets, outputs)) == pytest.approx(1.25)
    assert float(MixtureLoss(variance=0.5)(targets, outputs)) == pytest.approx(2.5)
    assert float(MixtureLoss()(targets, outputs, [0.0, 1.0])) == pytest.approx(1.0)
    loss = MixtureLoss("categorical", variance=0.3, reduction="sum")
    assert MixtureLoss.from_config(loss.get_config()).get_config() == loss.get_config()
    with tf.GradientTape() as tape:
        tape.watch(outputs["gates"])
        value = MixtureLoss()(targets, outputs)
    assert np.isfinite(tape.gradient(value, outputs["gates"])).all()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: gaussian_log_likelihoods(OUTPUTS, TARGETS, 0), "variance must be .*, got 0"),
        (lambda: gaussian_log_likelihoods(OUTPUTS[0], TARGETS), r"outputs must have .* \(3, 4\)"),
        (
            lambda: gaussian_log_likelihoods(OUTPUTS, LABELS),
            r"targets .* \[rows, 4\], got \(6, 1\)",
        ),
        (lambda: categorical_log_likelihoods(OUTPUTS, np.eye(6)), r"got the shape \(6, 6\); for"),
        (lambda: MixtureLoss("normal"), "likelihood must be one of 'gaussian', 'categorical'"),
        (lambda: MixtureLoss(variance=-1), "variance must be a finite number above 0, got -1"),
    ],
)
def test_errors(function, message):
    with pytest.raises(ValueError, match=message):
        function()
