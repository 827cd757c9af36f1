import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.data_pipelines.subword_training import UNKNOWN_SURFACE
from tfmoe.data_pipelines.subwords import Subwords
from tfmoe.gating import Batchwise
from tfmoe.layers import AttentionLSTM, MoE, ProjectedLSTM
from tfmoe.models import TranslationModel, residual_blocks
from tfmoe.serving.translator import Translator

WORDS = ["one", "two", "three", "four", "five", "six"]
IN_GERMAN = ["eins", "zwei", "drei", "vier", "fünf", "sechs"]
TEXT = [
    *(f"{a} {b}" for a in WORDS for b in WORDS),
    *(f"{a} {b}" for a in IN_GERMAN for b in IN_GERMAN),
]
D = 24


def make_model(size, seed=1):
    keras.utils.set_random_seed(seed)
    encoder = [ProjectedLSTM(D, return_sequences=True), MoE(4, 16, gate=Batchwise(k=2))]
    decoder = [AttentionLSTM(32, D), ProjectedLSTM(D, return_sequences=True)]
    model = TranslationModel(size, D, residual_blocks(encoder), residual_blocks(decoder))
    model.compile(keras.optimizers.Adam(0.02))
    model.build((None, None))
    return model


@pytest.fixture(scope="module")
def subwords():
    return Subwords.train(TEXT, 60)


@pytest.fixture(scope="module")
def multilingual_subwords():
    return Subwords.train(TEXT, 60, languages=["de", "en"])


@pytest.fixture(scope="module")
def trained(subwords):
    """A model that translates English numerals to German ones."""
    pairs = [
        (f"{WORDS[i]} {WORDS[j]}", f"{IN_GERMAN[i]} {IN_GERMAN[j]}")
        for i in range(6)
        for j in range(6)
    ]
    pairs += list(zip(WORDS, IN_GERMAN, strict=True))
    sources, targets = (
        [subwords.encode(text) for text in side] for side in zip(*pairs, strict=True)
    )
    source = tf.ragged.constant(sources, tf.int32).to_tensor().numpy()
    target = tf.ragged.constant([[1, *ids] for ids in targets], tf.int32).to_tensor().numpy()
    predicted = tf.ragged.constant([[*ids, 0] for ids in targets], tf.int32).to_tensor().numpy()
    model = make_model(len(subwords))
    repeated = [np.tile(x, (20, 1)) for x in (source, target, predicted)]
    model.fit(tuple(repeated[:2]), repeated[2], batch_size=len(pairs), epochs=8, verbose=0)
    return model


@pytest.fixture  # not shared: see `test_translator_works_after_seeding`
def translator(trained, subwords):
    return Translator(trained, subwords.tokenizer(), batch_sentences=3)


@pytest.fixture
def multilingual(multilingual_subwords):
    model = make_model(len(multilingual_subwords), seed=5)
    rng = np.random.default_rng(2)
    for weight in model.trainable_weights:  # large weights, so that the language symbol matters
        if weight.name != "log_thresholds":
            weight.assign(rng.standard_normal(weight.shape) * 0.5)
    languages = {
        name: multilingual_subwords.language_id(name) for name in multilingual_subwords.languages
    }
    return Translator(model, multilingual_subwords.tokenizer(), languages)


def test_translates_in_the_order_of_the_sentences(translator):
    sentences = ["six five", "one", "two four", "three", "", "four two", "five", "one one"]
    expected = ["sechs fünf", "eins", "zwei vier", "drei", "", "vier zwei", "fünf", "eins eins"]
    assert translator.translate_all(sentences) == expected


def test_no_sentences(translator):
    assert translator.translate_all([]) == []
    text, scores = translator.translate(tf.constant([], tf.string), 0)
    assert text.shape == scores.shape == (0, 1)


@pytest.mark.parametrize("sentence", ["", " ", "  \t "])
def test_empty_sentences(translator, sentence):
    ids = translator.tokenizer.tokenize([sentence])
    if sentence.strip(" "):  # a tab is a character
        assert ids.row_lengths().numpy().tolist() != [0]
        return
    assert translator.translate_all([sentence]) == [""]
    assert translator.translate_all(["one", sentence, "two"]) == ["eins", "", "zwei"]
    text, scores = translator.translate([sentence, "one"], 0)
    assert text.numpy()[0].tolist() == [b""] and scores.numpy()[0].tolist() == [0]


@pytest.mark.parametrize(
    "sentence",
    [
        "\t",
        "猫 one",
        "猫",
        UNKNOWN_SURFACE,
        "</s>",
        "<s> one",
        "<2de>",
        "▁",
        "one\ntwo",
        "\0",
        "\ufeffone",
        "👩‍👩‍👧‍👦",
        "x" * 300,
        "one " * 150,
    ],
    ids=lambda sentence: ascii(sentence[:12]),
)
def test_unusual_sentences_are_translated_and_do_not_affect_others(translator, sentence):
    first, translation, last = translator.translate_all(["one", sentence, "two four"])
    assert (first, last) == ("eins", "zwei vier")
    assert isinstance(translation, str)


@pytest.mark.parametrize("sentence", [b"\xff", b"one \xff\xfe", b"\xc3", b"\xed\xa0\x80 two"])
def test_bytes_that_are_not_utf8(translator, sentence):
    text, scores = translator.translate(tf.constant([b"one", sentence]), 0)
    assert text.numpy()[0, 0] == b"eins"
    text.numpy()[1, 0].decode("utf-8")  # the output is valid UTF-8
    assert np.all(np.isfinite(scores.numpy()))


def test_translations_do_not_depend_on_the_batch(translator):
    sentences = ["one two", "one", "six 猫 five", "three three three three", "", "x"]
    text, scores = translator.translate(sentences, 0)
    for row, sentence in enumerate(sentences):
        alone, score = translator.translate([sentence], 0)
        assert alone.numpy()[0, 0] == text.numpy()[row, 0]
        np.testing.assert_allclose(score.numpy()[0], scores.numpy()[row], rtol=0, atol=1e-4)


@pytest.mark.parametrize("batch_sentences", [1, 2, 64])
def test_translations_do_not_depend_on_batch_sentences(translator, batch_sentences):
    sentences = ["one two", "one", "six 猫 five", "three three three three", "", "x"]
    other = Translator(translator.model, translator.tokenizer, batch_sentences=batch_sentences)
    assert other.translate_all(sentences) == translator.translate_all(sentences)


def test_best_translations_are_sorted_and_different(trained, subwords):
    best = Translator(trained, subwords.tokenizer(), beam_size=5, num_best=4)
    text, scores = best.translate(["one two", "three", ""], 0)
    assert text.shape == scores.shape == (3, 4)
    assert (text.dtype, scores.dtype) == (tf.string, tf.float32)
    assert np.all(scores.numpy()[:, :-1] >= scores.numpy()[:, 1:])
    assert scores.numpy()[2].tolist() == [0.0] + [-np.inf] * 3  # one translation of nothing
    assert text.numpy()[:, 0].tolist() == [b"eins zwei", b"drei", b""]
    for row in text.numpy()[:2]:
        assert len(set(row)) == 4
    assert text.numpy()[2].tolist() == [b""] * 4
    assert best.translate_all(["one two", "three"]) == ["eins zwei", "drei"]
    wide = Translator(trained, subwords.tokenizer(), beam_size=5)
    _, first = wide.translate(["one two"], 0)
    np.testing.assert_allclose(first.numpy()[0, 0], scores.numpy()[0, 0], rtol=1e-4)


def test_equals_tokenization_search_and_detokenization(translator, subwords):
    sentence = "five three"
    source = np.array([subwords.encode(sentence)], np.int32)
    hypotheses = translator.model.translate(source)
    ids = hypotheses.ids.numpy()[0, 0, : int(hypotheses.lengths[0, 0])]
    text, scores = translator.translate([sentence], 0)
    assert text.numpy()[0, 0].decode() == subwords.decode(ids)
    np.testing.assert_allclose(scores.numpy()[0, 0], hypotheses.scores.numpy()[0, 0], rtol=1e-4)


def test_one_trace_for_all_inputs(trained, subwords):
    translator = Translator(trained, subwords.tokenizer())
    translator.translate_all(["one", "two three", ""])
    translator.translate_all(["one two three four five"] * 70)
    translator.translate([], 0)
    translator.translate(tf.constant(["one"]), tf.constant(0))
    assert translator.translate.experimental_get_tracing_count() == 1


def test_translators_do_not_share_traces(trained, subwords):
    models = [make_model(len(subwords), seed=9), trained]
    translations = []
    for model in models:
        translator = Translator(model, subwords.tokenizer())
        translations.append(translator.translate(["one"], 0)[0].numpy()[0, 0])
    assert translations[0] != translations[1] == b"eins"


def test_language_ids(translator, multilingual):
    assert translator.language_id(None) == translator.language_id("fr") == 0
    assert (multilingual.language_id("de"), multilingual.language_id("en")) == (3, 4)
    for language in (None, "fr", ""):
        message = f"the target language must be one of de, en, got {language!r}"
        with pytest.raises(ValueError, match=message):
            multilingual.translate_all(["one"], language)
        with pytest.raises(ValueError, match=message):
            multilingual.language_id(language)


def test_language_symbol_starts_the_source(multilingual, multilingual_subwords):
    sentences = ["one two", "six", "three one"]
    outputs = {
        language: multilingual.translate(sentences, multilingual.language_id(language))
        for language in ("de", "en")
    }
    for language, (text, scores) in outputs.items():
        for row, sentence in enumerate(sentences):
            ids = [
                multilingual_subwords.language_id(language),
                *multilingual_subwords.encode(sentence),
            ]
            expected = multilingual.model.translate(np.array([ids], np.int32))
            best = expected.ids.numpy()[0, 0, : int(expected.lengths[0, 0])]
            assert text.numpy()[row, 0].decode() == multilingual_subwords.decode(best)
            score = expected.scores.numpy()[0, 0]
            np.testing.assert_allclose(scores.numpy()[row, 0], score, rtol=1e-3)
        best = [text.decode() for text in text.numpy()[:, 0]]
        assert multilingual.translate_all(sentences, language) == best
    scores = [scores.numpy() for _, scores in outputs.values()]
    assert np.abs(scores[0] - scores[1]).max() > 1e-3


def test_empty_sentences_of_a_multilingual_model(multilingual):
    outputs = multilingual.translate_all(["", "one", " "], "de")
    assert (outputs[0], outputs[2]) == ("", "")
    assert multilingual.translate_all([""], "en") == [""]
    assert multilingual.translate_all([], "en") == []


def test_progress_is_reported_on_standard_error(translator, monkeypatch, capsys):
    monkeypatch.setattr("tfmoe.serving.translator.SECONDS_BETWEEN_REPORTS", -1)
    translator.translate_all(["one"] * 7, label="en-de")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [f"translating en-de: {n} of 7" for n in (3, 6, 7)]
    translator.translate_all(["one"] * 7)
    assert capsys.readouterr() == ("", "")


class Served(tf.Module):
    """A module with the translator as its serving function."""

    def __init__(self, translator):
        super().__init__()
        self.translator = translator

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def serve(self, sentences):
        text, scores = self.translator.translate(sentences, tf.constant(0))
        return {"text": text, "scores": scores}


def test_saved_model(translator, tmp_path):
    sentences = ["one two", "", "six", "猫"]
    text, scores = translator.translate(sentences, 0)
    module = Served(translator)
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=module.serve)
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    for outputs in (
        loaded.serve(tf.constant(sentences)),
        loaded.signatures["serving_default"](sentences=tf.constant(sentences)),
    ):
        assert outputs["text"].numpy().tolist() == text.numpy().tolist()
        np.testing.assert_allclose(outputs["scores"].numpy(), scores.numpy(), rtol=1e-5)
    assert translator.translate_all(["one"]) == ["eins"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beam_size": 0}, "beam_size must be an integer of at least 1, got 0"),
        ({"num_best": 0}, "num_best must be an integer of at least 1, got 0"),
        ({"num_best": 5}, "num_best must be at most beam_size=4, got 5"),
        ({"batch_sentences": 0}, "batch_sentences must be an integer of at least 1, got 0"),
        ({"length_penalty": -1.0}, "length_penalty"),
        ({"coverage_penalty": -1.0}, "coverage_penalty"),
        ({"pruning": 0.0}, "pruning must be a finite number above 0, got 0.0"),
    ],
)
def test_invalid_arguments(trained, subwords, arguments, message):
    with pytest.raises(ValueError, match=message):
        Translator(trained, subwords.tokenizer(), **arguments)


def test_translator_works_after_seeding(trained, subwords):
    """`tf.random.set_seed` clears TensorFlow's kernel cache, and with it the kernel that owns the
    tokenizer's resource.
    """
    translator = Translator(trained, subwords.tokenizer())
    assert translator.translate_all(["one"]) == ["eins"]
    keras.utils.set_random_seed(1)
    assert translator.translate_all(["one"]) == ["eins"]
