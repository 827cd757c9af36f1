"""`SoftMoE` by hand, against the dense formula, with masks and metrics.

`tests/distribute/test_soft_moe.py` runs it on several devices.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from layers.small_soft_mixtures import MASK, B, D, S, X, random_layer

from tfmoe.analysis.traffic import traffic_of
from tfmoe.config import ConfigError, build_model, load_config
from tfmoe.layers import AttentionLSTM, Residual, SoftMoE
from tfmoe.layers.soft_moe import EPSILON
from tfmoe.models import LanguageModel, TranslationModel, residual_blocks


def test_by_hand():
    """Two tokens, two experts with one slot each: X = [[3, 0], [0, 4]], Φ = [[5, 0], [0, 1]].

    The unit vectors are those of the axes, and s = log 2: L = [[log 2, 0], [0, log 2]]. Softmax
    over tokens and over slots give D = C = [[2/3, 1/3], [1/3, 2/3]]. Slots: [2, 4/3] and [1, 8/3].
    Expert 1 is relu(x₁): 2. Expert 2 is relu(-x₁) + relu(x₂), so 8/3, of which the output kernel
    makes [0, 8/3]. Y = [2/3·2, 1/3·8/3] and [1/3·2, 2/3·8/3].
    """
    layer = SoftMoE(2, 2, metrics="all", name="soft", dtype="float64")
    layer.build((None, 2, 2))
    layer.scale.assign(np.log(2))
    layer.slot_kernel.assign([[5.0, 0], [0, 1]])
    first, second = layer.experts.kernels
    first.assign([[[1.0, 0], [0, 0]], [[-1, 0], [0, 1]]])
    second.assign([[[1.0, 0], [0, 0]], [[0, 1], [0, 1]]])
    y = layer(np.array([[[3.0, 0], [0, 4]]]), training=True)
    np.testing.assert_allclose(y[0], [[4 / 3, 8 / 9], [2 / 3, 16 / 9]], rtol=1e-6)
    values = {name: float(value) for name, value in layer.expert_metrics.result().items()}
    assert values == pytest.approx(
        {"soft_dispatch_max": 2 / 3, "soft_combine_max": 2 / 3, "soft_slot_similarity": 0},
        abs=1e-6,
    )


def dense(layer, x, mask=None):
    """The formula for each sequence, with plain products."""

    def unit(v, axis):
        return v / tf.sqrt(tf.reduce_sum(v**2, axis, keepdims=True) + EPSILON)

    phi = unit(tf.convert_to_tensor(layer.slot_kernel), 0) * layer.scale
    experts, outputs = layer.experts, []
    for b in range(len(x)):
        real = x[b] if mask is None else tf.boolean_mask(x[b], mask[b])
        logits = unit(real, 1) @ phi
        h = tf.transpose(tf.nn.softmax(logits, axis=0)) @ real
        h = tf.reshape(h, [layer.num_experts, layer.slots_per_expert, D])
        for i, kernel in enumerate(experts.kernels):
            h = tf.einsum("npi,nio->npo", h, tf.convert_to_tensor(kernel))
            h = h + tf.convert_to_tensor(experts.biases[i])[:, None] if experts.use_bias else h
            h = tf.nn.relu(h) if i < experts.depth else h
        y = tf.nn.softmax(logits, axis=1) @ tf.reshape(h, [-1, D])
        if mask is not None:
            y = tf.scatter_nd(tf.where(mask[b]), y, [S, D])
        outputs.append(y)
    return tf.stack(outputs)


def values_and_gradients(function, layer):
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
        total = tf.reduce_sum(y * np.cos(np.arange(y.shape.num_elements()).reshape(y.shape)))
    return [y, *map(tf.convert_to_tensor, tape.gradient(total, [x, *layer.trainable_variables]))]


OPTIONS = {"plain": {}, "bias, deep, recompute": {"use_bias": True, "depth": 2, "recompute": True}}


@pytest.mark.parametrize("mask", [None, MASK], ids=["full", "masked"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_dense_formula(options, mask):
    layer = random_layer(**options)
    actual = values_and_gradients(lambda x: layer(x, mask=mask, training=True), layer)
    expected = values_and_gradients(lambda x: dense(layer, x, mask), layer)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)
        assert np.abs(b).max() > 1e-3


def test_padding_has_no_effect():
    layer = random_layer(use_bias=True)
    y = layer(X, mask=MASK)
    assert not np.any(y[~MASK])
    np.testing.assert_array_equal(layer(np.where(MASK[..., None], X, 100.0), mask=MASK), y)
    np.testing.assert_allclose(layer(X[1:2, :3])[0], y[1, :3], rtol=1e-12)


def test_mask_of_another_shape():
    with pytest.raises(ValueError, match="mask must have the shape of the inputs without the last"):
        random_layer()(X, mask=MASK[:, :2])


@pytest.mark.parametrize("shape", [(0, S, D), (2, 0, D)])
def test_empty_batches(shape):
    layer = random_layer(use_bias=True)
    assert layer(np.zeros(shape), training=True).shape == shape
    assert all(np.isfinite(value) for value in layer.expert_metrics.result().values())


def test_metrics_are_means_over_real_tokens():
    layer = random_layer()
    model = keras.Sequential([layer])
    model.compile("sgd", "mse")
    logs = model.evaluate(X, X, verbose=0, return_dict=True)
    phi = layer.slot_kernel.numpy() / np.linalg.norm(layer.slot_kernel, axis=0)
    pairs = (phi.T @ phi)[~np.eye(6, dtype=bool)]
    assert logs["soft_slot_similarity"] == pytest.approx(pairs.mean(), abs=1e-5)
    layer.expert_metrics.reset_state()
    layer(X, mask=MASK, training=True)
    masked = {name: float(value) for name, value in layer.expert_metrics.result().items()}
    weights = [
        layer._weights(X[b : b + 1, : MASK[b].sum()], None) for b in range(B) if any(MASK[b])
    ]
    dispatch = np.concatenate([w.numpy().max(axis=-1).ravel() for w, _ in weights])
    combine = np.concatenate([w.numpy().max(axis=-1).ravel() for _, w in weights])
    assert masked["soft_dispatch_max"] == pytest.approx(dispatch.mean(), rel=1e-6)
    assert masked["soft_combine_max"] == pytest.approx(combine.mean(), rel=1e-6)
    without = SoftMoE(2, 3, metrics=False)
    assert without(X, training=True).shape == X.shape and without.metrics == []


def test_slots_of_one_expert():
    layer = random_layer(num_experts=1, slots=1)
    layer(X, training=True)
    assert float(layer.expert_metrics.result()["soft_slot_similarity"]) == 0


def test_xla():
    layer = random_layer()
    compiled = tf.function(lambda x: layer(x), jit_compile=True)
    np.testing.assert_allclose(compiled(X), layer(X), rtol=1e-10)


def test_models_that_predict_the_next_word():
    block = Residual(SoftMoE(2, 3, metrics="all", name="soft"))
    with pytest.raises(ValueError, match="soft cannot compute single steps: every output"):
        block.step(X[:, 0], ())
    with pytest.raises(
        ValueError, match=r"blocks\[0\] must not read later positions, which are the"
    ):
        LanguageModel(9, D, [block])
    decoder = residual_blocks([AttentionLSTM(5, D)])
    with pytest.raises(ValueError, match=r"decoder\[1\] must not read later positions"):
        TranslationModel(9, D, [block], [*decoder, block])


CONFIG = """
model:
  name: translation
  d_model: 4
  encoder: [{name: soft_moe, num_experts: 2, hidden_units: 3, slots_per_expert: 2}]
  decoder: [{name: attention_lstm, units: 4}, {name: lstm, units: 4}]
data: {name: embedded_translation}
"""


def test_only_an_encoder_may_have_it(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    layer = build_model(load_config(config)).encoder[0].layer
    assert (layer.name, layer.num_slots) == ("encoder_soft_moe_0", 4)
    soft = "{name: soft_moe, num_experts: 2, hidden_units: 3}"
    for name, changes in (
        ("blocks", [f"model={{d_model: 4, blocks: [{soft}]}}", "data={name: text, train: a}"]),
        ("decoder", [f"model.decoder[1]={soft}"]),
    ):
        error = rf"model.{name}\[.\].name: .* must not read later positions, .* in an encoder only"
        with pytest.raises(ConfigError, match=error):
            load_config(config, changes)


def test_traffic_by_hand():
    layer = SoftMoE(8, 5)
    # One row of an expert per position, as 2-wide vectors of float32: sent and returned, forward
    # and backward, half of them to the other device.
    counts = traffic_of(layer, 2, tokens=100, devices=2)
    assert (counts["bytes_sent"], counts["expert_batch"]) == (4 * 100 * 2 * 4 // 2, 25)


def test_saved_by_keras(tmp_path):
    model = keras.Sequential([keras.Input([S, D]), random_layer(use_bias=True)])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(X), model(X))


def test_in_the_encoder_of_a_translation():
    encoder = residual_blocks([SoftMoE(2, 3)])
    decoder = residual_blocks([AttentionLSTM(5, D)])
    model = TranslationModel(9, D, encoder, decoder)
    source = np.array([[3, 4, 5], [6, 7, 0]])
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    loss = model.fit((source, source), source, verbose=0).history["loss"]
    assert np.isfinite(loss[0])
    padded = np.pad(source, [[0, 0], [0, 2]])
    np.testing.assert_allclose(model.encode(padded)[0][:, :3], model.encode(source)[0], atol=1e-6)
