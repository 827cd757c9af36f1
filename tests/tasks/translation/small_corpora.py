"""Configs and small texts for the tests of translation."""

import keras
import tensorflow as tf

from tfmoe.config import build_model, load_config

MODEL = """\
model:
  name: translation
  d_model: 8
  encoder:
    - {name: lstm, units: 8}
    - {name: moe, num_experts: 4, hidden_units: 8, gate: {name: batchwise, k: 2}}
  decoder:
    - {name: attention_lstm, units: 12, projection_units: 8}
    - {name: lstm, units: 8}
  decoding: {beam_size: 2, batch_sentences: 3}
"""
SIZES = "vocabulary: {size: 60}, batch_tokens: 64, max_length: 20"
ONE = f"""\
data: {{name: parallel, train: train, valid: valid, test: test, source_language: en,
       target_language: de, {SIZES}}}
"""
SEVERAL = """\
data:
  name: parallel
  directions:
    - {source_language: en, target_language: de, train: train, valid: valid, test: test}
    - {source_language: de, target_language: en, train: train, valid: valid, test: test}
    - {source_language: en, target_language: fr, train: more, test: more, weight: 2}
  vocabulary: {size: 60}
  batch_tokens: 64
  max_length: 20
"""
EMBEDDED = f"""\
data: {{name: embedded_translation, pairs: [en-fr, fr-en, en-ja], sentences: 30,
       valid_sentences: 4, test_sentences: 5, {SIZES.replace("60", "400")}}}
"""
TEXT = {  # 12, 2, 3 and 4 pairs
    "train.en": "one two\nthree\nfour one two\n" * 4,
    "train.de": "eins zwei\ndrei\nvier eins zwei\n" * 4,
    "valid.en": "one three\ntwo\n",
    "valid.de": "eins drei\nzwei\n",
    "test.en": "four\none\ntwo three\n",
    "test.de": "vier\neins\nzwei drei\n",
    "more.en": "one\ntwo\nfour two\none two\n",
    "more.fr": "un\ndeux\nquatre deux\nun deux\n",
}


def load(data, *overrides):
    with open("config.yaml", "w") as file:
        file.write(MODEL + data)
    return load_config("config.yaml", overrides)


def built(config, vocabulary):
    keras.utils.set_random_seed(0)
    model = build_model(config, len(vocabulary))
    model.compile("adam")
    model.build((None, None))
    return model


def batches_of(dataset):
    return [tf.nest.map_structure(lambda x: x.numpy(), batch) for batch in dataset]
