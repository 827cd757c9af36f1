"""Exported functions of Transformers, which decode with caches of keys and values."""

import numpy as np
import pytest
import tensorflow as tf
from models.small_transformers import language_model, randomised, translation_model

from tfmoe.data_pipelines import Vocabulary
from tfmoe.data_pipelines.graph_tokenization import split_words
from tfmoe.data_pipelines.subwords import Subwords
from tfmoe.serving.frozen_weights import FrozenWeights
from tfmoe.serving.language_model import ServingLanguageModel
from tfmoe.serving.saved_model import exported_module
from tfmoe.serving.translation import ServingTranslator
from tfmoe.serving.translator import Translator

pytestmark = pytest.mark.slow

VOCABULARY = Vocabulary(["</S>", "<S>", "<UNK>", *"abcdefgh"])
MAX_LENGTH = 4
# Fewer words than a row, as many as a row, more than two rows.
PREFIXES = ["", "a b", "h g f", "a b c d", "x c h d e a a b c"]


@pytest.fixture(scope="module")
def model():
    return randomised(language_model(len(VOCABULARY)))


@pytest.fixture(scope="module")
def generate(model):
    weights, table = FrozenWeights(model), VOCABULARY.lookup_table()
    words = VOCABULARY.decode(range(len(VOCABULARY)))
    serving = ServingLanguageModel(model, weights, split_words, table, words, MAX_LENGTH)
    signatures = {"generate": serving.signatures()["generate"]}
    resources = {"weights": weights.variables, "table": table}
    _, functions = exported_module(signatures, "generate", resources)

    def generate(prefixes, lengths=(9,)):
        outputs = functions["generate"](
            prefix=tf.constant(prefixes),
            length=tf.constant(lengths),
            temperature=tf.constant([0.0]),
            seed=tf.constant([0]),
        )
        return [text.decode().split() for text in outputs["text"].numpy()]

    return generate


def greedy(model, prefix, length):
    """The likeliest words, each by a full pass over its row."""
    ids, written = [1, *VOCABULARY.encode(prefix.split())], []
    while len(written) < length:
        row = ids[(len(ids) - 1) // MAX_LENGTH * MAX_LENGTH :]
        logits = model.word_logits(model(np.array([row], np.int32))).numpy()[0, -1]
        logits[[1, 2]] = -np.inf  # <S> and <UNK> are never generated
        best = int(logits.argmax())
        if best == 0:
            break
        ids.append(best)
        written.append(best)
    return VOCABULARY.decode(written)


def test_generated_text_equals_full_passes(model, generate):
    generated = generate(PREFIXES)
    assert generated == [greedy(model, prefix, 9) for prefix in PREFIXES]
    assert len({tuple(words) for words in generated}) == len(PREFIXES)


def test_generated_text_does_not_depend_on_the_batch(generate):
    assert generate(PREFIXES[::-1] * 2) == [generate([prefix])[0] for prefix in PREFIXES[::-1]] * 2


def test_sentences_of_a_batch_have_their_lengths(model, generate):
    lengths = [7, 1, 0, 9, 4]
    expected = [
        greedy(model, prefix, length) for prefix, length in zip(PREFIXES, lengths, strict=True)
    ]
    assert generate(PREFIXES, lengths) == expected


def test_translations_of_an_exported_model():
    subwords = Subwords.train([f"{a} {b}" for a in ("one", "two") for b in ("four", "six")], 30)
    model = randomised(translation_model(len(subwords)))
    translator = Translator(model, subwords.tokenizer(), {}, beam_size=2, num_best=1)
    pieces = [subwords.piece(index) for index in range(len(subwords))]
    weights = FrozenWeights(model)
    serving = ServingTranslator(translator, weights, pieces)
    resources = {"weights": weights.variables, **serving.resources}
    signatures = {"translate": serving.signatures()["translate"]}
    _, functions = exported_module(signatures, "translate", resources)

    def translate(sentences):
        return functions["translate"](sentences=tf.constant(sentences))

    sentences = ["one four", "", "six six two", "two"]
    outputs = translate(sentences)
    text, scores = translator.translate(tf.constant(sentences), 0)
    assert outputs["translations"].numpy().tolist() == text.numpy().tolist()
    np.testing.assert_allclose(outputs["scores"], scores, atol=1e-4)
    for row, sentence in enumerate(sentences):
        alone = translate([sentence])
        assert alone["translations"].numpy()[0, 0] == outputs["translations"].numpy()[row, 0]
        np.testing.assert_allclose(alone["scores"][0], outputs["scores"][row], atol=1e-4)
