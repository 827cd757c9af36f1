"""Transformers: language models and translation models of attention blocks with normalizations."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from models.small_transformers import D, blocks, language_model, randomised, translation_model
from models.translation.small_model import REAL, SOURCE, TARGET, TARGETS, log_softmax

from tfmoe.analysis.memory import activation_bytes
from tfmoe.analysis.operations import describe
from tfmoe.layers import CrossAttention, FeedForward, MoE, SelfAttention
from tfmoe.models import LanguageModel, TranslationModel, residual_blocks

TOKENS = np.array([[1, 3, 4, 5], [1, 6, 0, 0], [1, 12, 7, 0]], np.int32)
WORDS = np.array([[3, 4, 5, 0], [6, 0, 0, 0], [12, 7, 0, 0]], np.int32)


@pytest.mark.parametrize("norm", ["rms", pytest.param("layer", marks=pytest.mark.slow)])
def test_steps_of_a_language_model_equal_the_call(norm):
    model = randomised(language_model(norm=norm))
    expected, states = model(TOKENS).numpy(), model.initial_states(3, max_length=5)
    for t in range(4):
        features, states = model.step(tf.constant(TOKENS[:, t]), states)
        on = TOKENS[:, t] != 0
        np.testing.assert_allclose(features.numpy()[on], expected[on, t], rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="max_length must be the maximum number of steps, got No"):
        model.initial_states(3)


def test_padding_changes_nothing():
    model = randomised(language_model())
    padded = np.pad(TOKENS, [(0, 1), (0, 3)])
    expected = model.negative_log_likelihood(TOKENS, WORDS)
    values = model.negative_log_likelihood(padded, np.pad(WORDS, [(0, 1), (0, 3)]))
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)
    translation = randomised(translation_model())
    expected = translation.negative_log_likelihood((SOURCE, TARGET), TARGETS)
    source, target, targets = (np.pad(x, [(0, 1), (0, 3)]) for x in (SOURCE, TARGET, TARGETS))
    values = translation.negative_log_likelihood((source, target), targets)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)


def test_a_language_model_by_hand():
    """Without blocks, the logits are those of the normalized embedding."""
    model = LanguageModel(3, 2, [], final_norm="rms")
    model.build((None, None))
    model.embedding.embeddings.assign([[0, 0], [6, 8], [0, 1]])
    model.normalization.scale.assign([1, 2])
    # (6, 8) / √50 and (0, 1) / √(1/2), times (1, 2).
    expected = [[[6 / 50**0.5, 16 / 50**0.5], [0, 2 * 2**0.5]]]
    np.testing.assert_allclose(model(np.array([[1, 2]])), expected, rtol=1e-5)


def test_costs_of_a_language_model_by_hand():
    model = language_model()
    counts = describe(model)
    # D = 8. Attention: queries and output 2·8·8, keys and values 2·8·4, a norm of 8. Mixture: two
    # of four experts of 2·8·6, gates 2·8·4. Feed-forward network: 2·8·16.
    attention, moe = 2 * 8 * 8 + 2 * 8 * 4, 2 * 2 * 8 * 6 + 2 * 8 * 4
    assert counts["ops_by_layer"] == {
        "attention_1": attention, "moe_1": moe, "moe_2": moe, "attention_2": 4 * 8 * 8,
        "feed_forward": 2 * 8 * 16,
    }  # fmt: skip
    parameters = counts["parameters"]
    assert parameters["by_layer"] == {
        "attention_1": attention + 8, "moe_1": 4 * 96 + 64 + 8, "moe_2": 4 * 96 + 64 + 8,
        "attention_2": 256 + 8, "feed_forward": 256 + 8,
    }  # fmt: skip
    within = sum(parameters["by_layer"].values()) + 8  # the final norm
    assert parameters["excluding_embedding_and_softmax"] == within
    assert parameters["total"] == within + 13 * 8 + 13 * 9
    model.build((None, None))
    assert parameters["total"] == model.count_params()
    without = LanguageModel(13, D, model.blocks)
    assert activation_bytes(model, 10) == activation_bytes(without, 10) + 10 * 4 * 8


@pytest.mark.slow
@pytest.mark.parametrize("make", [language_model, translation_model])
def test_train_save_and_load(make, tmp_path):
    model = make()
    inputs, targets = (TOKENS, WORDS) if make is language_model else ((SOURCE, TARGET), TARGETS)
    model.compile(keras.optimizers.Adam(0.05), run_eagerly=True)
    history = model.fit(inputs, targets, epochs=3, verbose=0).history
    assert history["loss"][-1] < 0.9 * history["loss"][0]
    model.save(tmp_path / "m.keras")
    restored = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(restored(inputs), model(inputs))
    assert restored.final_norm == model.final_norm


def test_decoding_steps_equal_the_call():
    model = randomised(translation_model())
    expected = log_softmax(model.word_logits(model((SOURCE, TARGET))).numpy())
    expected_attention = model.attention(SOURCE, TARGET).numpy()
    step, states = model.decoding_step(*model.encode(SOURCE)), model.initial_states(3, 4)
    for t in range(TARGET.shape[1]):
        log_p, attention, states = step(tf.constant(TARGET[:, t]), states)
        on = REAL[:, t]
        np.testing.assert_allclose(log_p.numpy()[on], expected[on, t], rtol=0, atol=1e-5)
        np.testing.assert_allclose(
            attention.numpy()[on], expected_attention[on, t], rtol=0, atol=1e-5
        )
    np.testing.assert_allclose(expected_attention.sum(axis=-1), 1, rtol=1e-5)
    assert not expected_attention[np.broadcast_to((SOURCE == 0)[:, None], (3, 4, 4))].any()


def test_attention_is_the_mean_of_the_blocks():
    layers = [CrossAttention(2, name="first"), CrossAttention(1, name="second")]
    model = randomised(TranslationModel(13, D, [], blocks(layers)))
    features, (memory, mask) = model.embedding(TARGET), model.encode(SOURCE)
    features, first = model.decoder[0].with_attention(features, memory, mask)
    _, second = model.decoder[1].with_attention(features, memory, mask)
    assert np.abs(first - second).max() > 0.1
    np.testing.assert_allclose(model.attention(SOURCE, TARGET), (first + second) / 2, atol=1e-6)


@pytest.mark.slow
def test_beam_search_equals_the_calls():
    model = randomised(translation_model())
    result = model.translate(
        SOURCE, beam_size=2, coverage_penalty=0.0, max_length=np.array([3, 5, 7])
    )
    for row, limit in enumerate([3, 5, 7]):
        n = int(result.lengths[row, 0])
        outputs = [*result.ids.numpy()[row, 0, :n], *([0] if n < limit else [])]
        target = np.array([[1, *outputs[:-1]]], np.int32)
        logits = model.word_logits(model((SOURCE[row : row + 1], target))).numpy()
        expected = log_softmax(logits)[0, np.arange(len(outputs)), outputs].sum()
        actual = float(result.log_probabilities[row, 0])
        assert actual == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float64", "mixed_bfloat16"])
def test_dtypes(policy):
    default = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = randomised(translation_model())
    finally:
        keras.config.set_dtype_policy(default)
    step, states = model.decoding_step(*model.encode(SOURCE)), model.initial_states(3, 4)
    assert states[1].keys.dtype == model.compute_dtype
    expected = log_softmax(model.word_logits(model((SOURCE, TARGET))).numpy())
    log_p, attention, _ = step(tf.constant(TARGET[:, 0]), states)
    assert attention.dtype == tf.float32
    tolerance = 1e-5 if policy == "float64" else 0.3
    np.testing.assert_allclose(log_p, expected[:, 0], rtol=0, atol=tolerance)


def test_blocks_that_read_later_words_are_refused():
    layers = [FeedForward(4), SelfAttention(2, causal=False, name="self")]
    message = r"{}\[1\] must not read later positions, .* got residual_self \(self-attention needs"
    with pytest.raises(ValueError, match=message.format("blocks")):
        LanguageModel(13, D, blocks(layers))
    with pytest.raises(ValueError, match=message.format("decoder")):
        TranslationModel(13, D, [], blocks([CrossAttention(2), layers[1]]))
    with pytest.raises(ValueError, match="final_norm must be one of 'rms', 'layer', got 'batch'"):
        LanguageModel(13, D, [], final_norm="batch")


def test_options_of_residual_blocks():
    layers = [FeedForward(4), MoE(4, 3), SelfAttention(2)]

    def options(**arguments):
        made = residual_blocks(layers, **arguments)
        return [(block.norm, block.activation.__name__, block.residual) for block in made]

    assert options() == [(None, "sigmoid", True), (None, "sigmoid", True), (None, "linear", True)]
    assert options(norm="rms", activation=None) == [("rms", "linear", True)] * 3
    assert options(
        norm=["rms", None, "layer"],
        activation=["default", None, "tanh"],
        residual=[True, False, True],
    ) == [("rms", "sigmoid", True), (None, "linear", False), ("layer", "tanh", True)]
    with pytest.raises(ValueError, match="zip"):
        residual_blocks(layers, norm=["rms"])
