"""Exported functions of a translation model with random weights."""

import numpy as np
import pytest
import tensorflow as tf
from serving.small_translation_models import exported

SENTENCES = ["one two", "", "six", "猫 three", "one " * 40]


def make(languages):
    """The translator and the exported functions of a model."""
    translator, _, functions = exported(languages)
    return translator, functions


@pytest.fixture(scope="module")
def one_direction():
    return make([])


@pytest.fixture(scope="module")
def multilingual():
    return make(["de", "fr"])


def test_translates_like_the_model(one_direction):
    translator, functions = one_direction
    outputs = functions["translate"](sentences=tf.constant(SENTENCES[:4]))
    text, scores = translator.translate(tf.constant(SENTENCES[:4]), 0)
    assert outputs["translations"].numpy().tolist() == text.numpy().tolist()
    np.testing.assert_allclose(outputs["scores"], scores, atol=1e-5)
    assert not outputs["truncated"].numpy().any()


def test_results_do_not_depend_on_the_batch(one_direction):
    functions = one_direction[1]
    for name in ("translate", "route"):
        batch = functions[name](sentences=tf.constant(SENTENCES * 3))
        for row, sentence in enumerate(SENTENCES):
            for key, alone in functions[name](sentences=tf.constant([sentence])).items():
                alone = np.asarray(alone.numpy()[0])
                in_batch = np.asarray(batch[key].numpy()[row])
                if alone.ndim:
                    in_batch = in_batch[tuple(slice(size) for size in alone.shape)]
                if in_batch.dtype.kind == "f":
                    np.testing.assert_allclose(alone, in_batch, rtol=1e-5, atol=1e-5)
                else:
                    assert np.array_equal(alone, in_batch), (key, sentence)


def test_one_language_per_sentence(multilingual):
    translator, functions = multilingual
    sentences = tf.constant(["one two", "six five", "three"])
    outputs = functions["translate"](sentences=sentences, language=tf.constant(["de", "fr", "de"]))
    for row, language in enumerate(["de", "fr", "de"]):
        text, scores = translator.translate(sentences, translator.language_id(language))
        assert outputs["translations"][row].numpy().tolist() == text[row].numpy().tolist()
        np.testing.assert_allclose(outputs["scores"][row], scores[row], atol=1e-5)
    all_french = functions["translate"](sentences=sentences, language=tf.constant(["fr"]))
    text, _ = translator.translate(sentences, translator.language_id("fr"))
    assert all_french["translations"].numpy().tolist() == text.numpy().tolist()


def test_functions_on_ids_give_the_answers_of_those_on_strings(one_direction, multilingual):
    for (translator, functions), language in (
        (one_direction, {}),
        (multilingual, {"language": ["fr"]}),
    ):
        language = {name: tf.constant(x) for name, x in language.items()}
        ids = translator.tokenizer.tokenize(SENTENCES).to_tensor()
        outputs = functions["translate_ids"](ids=ids, **language)
        expected = functions["translate"](sentences=tf.constant(SENTENCES), **language)
        for name in ("scores", "truncated"):
            np.testing.assert_array_equal(outputs[name], expected[name])
        flat = tf.reshape(outputs["ids"], [-1, outputs["ids"].shape[2]])
        lengths = tf.reshape(outputs["subword_count"], [-1])
        assert not flat[tf.range(flat.shape[1]) >= lengths[:, None]].numpy().any()
        text = translator.tokenizer.detokenize(tf.RaggedTensor.from_tensor(flat, lengths))
        assert text.numpy().tolist() == expected["translations"].numpy().ravel().tolist()


@pytest.mark.parametrize("name", ["translate", "route"])
def test_unknown_languages(multilingual, name):
    function = multilingual[1][name]
    with pytest.raises(tf.errors.InvalidArgumentError, match="must be one of de, fr, got") as e:
        function(sentences=tf.constant(["one"]), language=tf.constant(["xx"]))
    assert "xx" in e.value.message
    with pytest.raises(tf.errors.InvalidArgumentError, match="language must have one value, or"):
        function(sentences=tf.constant(["one"] * 3), language=tf.constant(["de", "fr"]))


def test_long_sentences_are_truncated(one_direction):
    functions = one_direction[1]
    outputs = functions["translate"](sentences=tf.constant(SENTENCES))
    assert outputs["truncated"].numpy().tolist() == [False] * 4 + [True]
    route = functions["route"](sentences=tf.constant(SENTENCES[-1:]))
    assert route["source_tokens"].shape[1] == 20 and route["truncated"].numpy().all()


def test_routes(multilingual):
    translator, functions = multilingual
    outputs = functions["route"](sentences=tf.constant(["one two"]), language=tf.constant(["fr"]))
    outputs = {name: value.numpy() for name, value in outputs.items()}
    assert outputs["source_tokens"][0, 0] == b"<2fr>" and outputs["target_tokens"][0, 0] == b"<s>"
    written = b"".join(outputs["target_tokens"][0, 1:]).decode().replace("▁", " ").strip()
    best = functions["translate"](sentences=["one two"], language=["fr"])["translations"][0, 0]
    assert outputs["translation"][0] == best.numpy()
    assert written == best.numpy().decode()
    model = translator.model
    ids = translator.tokenizer.tokenize(["one two"])
    source = translator.source(ids, tf.constant([translator.language_id("fr")]))
    features = model.encoder[0](model.embedding(source))
    tokens, experts, gates = (
        tensor.numpy() for tensor in model.encoder[1].layer.route(features).assignments.by_token()
    )
    expected, actual = np.zeros((2, source.shape[1], 5))
    expected[tokens, experts] = gates
    experts, values = outputs["encoder_moe_experts"][0], outputs["encoder_moe_gates"][0]
    np.put_along_axis(actual, experts % 5, values, axis=1)
    np.testing.assert_allclose(actual[:, :4], expected[:, :4], atol=1e-6)
    assert outputs["decoder_moe_experts"].shape[1:] == (outputs["target_tokens"].shape[1], 2)
    np.testing.assert_allclose(outputs["decoder_moe_gates"].sum(axis=2), 1, atol=1e-5)


@pytest.mark.parametrize("sentences", [[], ["", ""], [b"\xff\xfe", "\0", "</s> <2fr>"]])
def test_unusual_sentences(multilingual, sentences):
    sentences = tf.constant(sentences, tf.string)
    num_sentences = sentences.shape[0]
    for name in ("translate", "route"):
        outputs = multilingual[1][name](sentences=sentences, language=tf.constant(["de"]))
        assert all(value.shape[0] == num_sentences for value in outputs.values())
