"""Of a model with random weights: what it says does not matter here."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.data_pipelines.subwords import Subwords
from tfmoe.gating import Batchwise, NoisyTopK
from tfmoe.layers import AttentionLSTM, MoE, ProjectedLSTM
from tfmoe.models import TranslationModel, residual_blocks
from tfmoe.serving.frozen_weights import FrozenWeights
from tfmoe.serving.saved_model import exported_module
from tfmoe.serving.translation import ServingTranslator
from tfmoe.serving.translator import Translator

D = 8
TEXT = [f"{a} {b}" for a in ("one", "two", "three") for b in ("four", "five", "six")]
SENTENCES = ["one two", "", "six", "猫 three", "one " * 40]


def make(languages, longest_source=20):
    """`(translator, exported functions)`."""
    subwords = Subwords.train(TEXT, 40, languages=languages)
    keras.utils.set_random_seed(1)
    encoder = [
        ProjectedLSTM(D, return_sequences=True),
        MoE(4, 6, gate=Batchwise(k=2), name="encoder_moe"),
    ]
    decoder = [AttentionLSTM(D), MoE(4, 6, gate=NoisyTopK(k=2), name="decoder_moe")]
    model = TranslationModel(len(subwords), D, residual_blocks(encoder), residual_blocks(decoder))
    model.build((None, None))
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.name != "log_thresholds":
            weight.assign(rng.standard_normal(weight.shape) * 0.6)
    ids = {name: subwords.language_id(name) for name in subwords.languages}
    translator = Translator(model, subwords.tokenizer(), ids, beam_size=3, num_best=2)
    weights = FrozenWeights(model)
    pieces = [subwords.piece(index) for index in range(len(subwords))]
    made = ServingTranslator(translator, weights, pieces, longest_source)
    resources = {"weights": weights.variables, **made.resources}
    return translator, exported_module(made.signatures(), "translate", resources)[1]


@pytest.fixture(scope="module")
def of_one():
    return make([])


@pytest.fixture(scope="module")
def of_several():
    return make(["de", "fr"])


def test_translates_as_the_live_model(of_one):
    translator, functions = of_one
    found = functions["translate"](sentences=tf.constant(SENTENCES[:4]))
    text, scores = translator.translate(tf.constant(SENTENCES[:4]), 0)
    assert found["translations"].numpy().tolist() == text.numpy().tolist()
    np.testing.assert_allclose(found["scores"], scores, atol=1e-5)
    assert not found["truncated"].numpy().any()


def test_a_batch_of_one_and_of_many(of_one):
    functions = of_one[1]
    for name in ("translate", "route"):
        together = functions[name](sentences=tf.constant(SENTENCES * 3))
        for row, sentence in enumerate(SENTENCES):
            for key, alone in functions[name](sentences=tf.constant([sentence])).items():
                alone = np.asarray(alone.numpy()[0])
                here = np.asarray(together[key].numpy()[row])
                if alone.ndim:
                    here = here[tuple(slice(size) for size in alone.shape)]
                if here.dtype.kind == "f":
                    np.testing.assert_allclose(alone, here, rtol=1e-5, atol=1e-5)
                else:
                    assert np.array_equal(alone, here), (key, sentence)


def test_each_sentence_into_its_own_language(of_several):
    translator, functions = of_several
    sentences = tf.constant(["one two", "six five", "three"])
    found = functions["translate"](sentences=sentences, language=tf.constant(["de", "fr", "de"]))
    for row, language in enumerate(["de", "fr", "de"]):
        text, scores = translator.translate(sentences, translator.language_id(language))
        assert found["translations"][row].numpy().tolist() == text[row].numpy().tolist()
        np.testing.assert_allclose(found["scores"][row], scores[row], atol=1e-5)
    all_french = functions["translate"](sentences=sentences, language=tf.constant(["fr"]))
    text, _ = translator.translate(sentences, translator.language_id("fr"))
    assert all_french["translations"].numpy().tolist() == text.numpy().tolist()


@pytest.mark.parametrize("name", ["translate", "route"])
def test_unknown_languages(of_several, name):
    function = of_several[1][name]
    with pytest.raises(tf.errors.InvalidArgumentError, match="must be one of de, fr; it is") as e:
        function(sentences=tf.constant(["one"]), language=tf.constant(["xx"]))
    assert "xx" in e.value.message
    with pytest.raises(tf.errors.InvalidArgumentError, match="language must have one value, or"):
        function(sentences=tf.constant(["one"] * 3), language=tf.constant(["de", "fr"]))


def test_long_sentences_are_cut_off(of_one):
    functions = of_one[1]
    found = functions["translate"](sentences=tf.constant(SENTENCES))
    assert found["truncated"].numpy().tolist() == [False] * 4 + [True]
    route = functions["route"](sentences=tf.constant(SENTENCES[-1:]))
    assert route["source_tokens"].shape[1] == 20 and route["truncated"].numpy().all()


def test_routes(of_several):
    translator, functions = of_several
    found = functions["route"](sentences=tf.constant(["one two"]), language=tf.constant(["fr"]))
    found = {name: value.numpy() for name, value in found.items()}
    assert found["source_tokens"][0, 0] == b"<2fr>" and found["target_tokens"][0, 0] == b"<s>"
    written = b"".join(found["target_tokens"][0, 1:]).decode().replace("▁", " ").strip()
    best = functions["translate"](sentences=["one two"], language=["fr"])["translations"][0, 0]
    assert found["translation"][0] == best.numpy()
    assert written == best.numpy().decode()
    model = translator.model
    ids = translator.tokenizer.tokenize(["one two"])
    source = translator.source(ids, tf.constant([translator.language_id("fr")]))
    features = model.encoder[0](model.embedding(source))
    tokens, experts, gates = (
        each.numpy() for each in model.encoder[1].layer.route(features).assignments.by_token()
    )
    expected, again = np.zeros((2, source.shape[1], 5))
    expected[tokens, experts] = gates
    ours, values = found["encoder_moe_experts"][0], found["encoder_moe_gates"][0]
    np.put_along_axis(again, ours % 5, values, axis=1)
    np.testing.assert_allclose(again[:, :4], expected[:, :4], atol=1e-6)
    assert found["decoder_moe_experts"].shape[1:] == (found["target_tokens"].shape[1], 2)
    np.testing.assert_allclose(found["decoder_moe_gates"].sum(axis=2), 1, atol=1e-5)


@pytest.mark.parametrize("sentences", [[], ["", ""], [b"\xff\xfe", "\0", "</s> <2fr>"]])
def test_odd_sentences_have_an_answer(of_several, sentences):
    sentences = tf.constant(sentences, tf.string)
    number = sentences.shape[0]
    for name in ("translate", "route"):
        found = of_several[1][name](sentences=sentences, language=tf.constant(["de"]))
        assert all(value.shape[0] == number for value in found.values())
