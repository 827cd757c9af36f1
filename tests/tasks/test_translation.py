import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import data_pipelines
from tfmoe.config import ConfigError, build_model, load_config
from tfmoe.tasks import task_of
from tfmoe.tasks.translation import TranslationTask, build_translator
from tfmoe.tasks.vocabularies import build_subwords

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


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    for name, text in TEXT.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFMOE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def load(data, *overrides):
    with open("config.yaml", "w") as file:
        file.write(MODEL + data)
    return load_config("config.yaml", overrides)


def problems(data, *overrides):
    with pytest.raises(ConfigError) as caught:
        load(data, *overrides)
    return str(caught.value).split("\n")


def built(config, vocabulary):
    keras.utils.set_random_seed(0)
    model = build_model(config, len(vocabulary))
    model.compile("adam")
    model.build((None, None))
    return model


def batches_of(dataset):
    return [tf.nest.map_structure(lambda x: x.numpy(), batch) for batch in dataset]


def pairs_of(batches, vocabulary):
    """Sorted `(source, target)` texts of batches, which are checked."""
    pairs = []
    for (source, target), targets in batches:
        assert source.dtype == target.dtype == targets.dtype == np.int32
        np.testing.assert_array_equal(target[:, 0], 1)
        np.testing.assert_array_equal(target[:, 1:], targets[:, :-1])
        for a, b in zip(source, targets, strict=True):
            pairs.append((vocabulary.decode(a[a != 0]), vocabulary.decode(b[b != 0])))
    return sorted(pairs)


# One direction.


def test_task_of_a_config_reads_nothing():
    config = load(ONE, "data.train=nowhere")
    task = task_of(config)
    assert isinstance(task, TranslationTask)
    with pytest.raises(data_pipelines.TextError, match=r"nowhere.en: no such file"):
        task.corpus_statistics()


def test_facts_and_report():
    task = task_of(load(ONE))
    assert task.corpus_statistics() == {
        "train": {"files": ["train.en", "train.de"], "sentences": 12, "words": 48},
        "valid": {"files": ["valid.en", "valid.de"], "sentences": 2, "words": 6},
        "test": {"files": ["test.en", "test.de"], "sentences": 3, "words": 8},
    }
    json.dumps(task.corpus_statistics())  # as a run keeps them
    vocabulary = task.new_vocabulary()
    lines = [" ".join(line.split()) for line in task.report(vocabulary)]
    assert lines == [
        "train 12 pairs 24 words en 24 de",
        "valid 2 pairs 3 words en 3 de",
        "test 3 pairs 4 words en 4 de",
        f"vocabulary of {len(vocabulary)} subwords",
    ]
    assert len(vocabulary) <= 60 and vocabulary.languages == []


def test_report_of_pairs_that_are_too_long():
    task = task_of(load(ONE, "data.max_length=4"))
    vocabulary = task.new_vocabulary()
    sides = [TEXT[name].splitlines() for name in ("train.en", "train.de")]
    pairs = list(zip(*map(vocabulary.encoded_lengths, sides), strict=True))
    too_long = sum(max(pair) > 4 for pair in pairs)
    assert 0 < too_long < 12
    line = f"{too_long} pairs for training are longer than max_length=4"
    assert list(task.report(vocabulary))[-2] == line


def test_batches():
    config = load(ONE)
    task = task_of(config)
    vocabulary = task.new_vocabulary()
    steps = task.batches_per_epoch(vocabulary)
    training = batches_of(task.training_batches(vocabulary, 0).take(2 * steps))
    expected = sorted(
        zip(TEXT["train.en"].splitlines(), TEXT["train.de"].splitlines(), strict=True)
    )
    for part in (training[:steps], training[steps:]):
        assert pairs_of(part, vocabulary) == expected
    for (source, target), _ in training:
        assert source.size + target.size <= 64
    later = batches_of(task.training_batches(vocabulary, steps - 1).take(2))
    for a, b in zip(later, training[steps - 1 :], strict=False):
        tf.nest.map_structure(np.testing.assert_array_equal, a, b)
    validation = task.validation_batches(vocabulary)
    pairs = [("one three", "eins drei"), ("two", "zwei")]
    assert pairs_of(batches_of(validation), vocabulary) == pairs
    assert pairs_of(batches_of(validation), vocabulary) == pairs  # again
    assert task_of(load(ONE, "data.valid=[]")).validation_batches(vocabulary) is None


def test_find_files():
    task = task_of(load(ONE))
    assert task.find_files([]) == task.splits.test == task.find_files([], "en-de")
    (files,) = task.find_files(["valid", "train"])
    assert files.file_pairs == [("valid.en", "valid.de"), ("train.en", "train.de")]
    with pytest.raises(ValueError, match="--direction must be one of en-de, got 'de-en'"):
        task.find_files(["valid"], "de-en")


def test_evaluate():
    config = load(ONE)
    task = task_of(config)
    vocabulary = task.new_vocabulary()
    model = built(config, vocabulary)
    result = task.evaluate(model, vocabulary, task.splits.test, [])
    assert set(result) == {
        "bleu", "signature", "chrf", "chrf_signature", "multi_bleu", "sentences", "perplexity",
        "tokens", "loss", "encoder_moe_1_cv_importance", "encoder_moe_1_cv_load",
        "encoder_moe_1_max_over_mean_load", "encoder_moe_1_unused_experts",
        "encoder_moe_1_dropped", "encoder_moe_1_experts_per_token", "encoder_moe_1_unrouted",
    }  # fmt: skip
    assert result["sentences"] == 3
    # Every subword of the targets and the three ends.
    assert result["tokens"] == sum(vocabulary.encoded_lengths(TEXT["test.de"].splitlines())) + 3
    assert result["perplexity"] == pytest.approx(math.exp(result["loss"]), rel=1e-6)
    assert "tok:13a" in result["signature"]
    assert json.loads(json.dumps(result)) == result
    line = TranslationTask.summary(result)
    assert line.startswith(f"BLEU {result['bleu']:.2f} ({result['signature']}), chrF ")
    assert line.endswith(" per subword, on 3 sentences") and "\n" not in line


def test_a_perfect_translator_has_bleu_100(monkeypatch):
    config = load(ONE)
    task = task_of(config)
    vocabulary = task.new_vocabulary()
    model = built(config, vocabulary)
    right = dict(zip(TEXT["test.en"].splitlines(), TEXT["test.de"].splitlines(), strict=True))

    class Perfect:
        def translate_all(self, sentences, language=None, label=None):
            assert (language, label) == ("de", "en-de")
            return [right[sentence] for sentence in sentences]

    monkeypatch.setattr("tfmoe.tasks.translation.build_translator", lambda *arguments: Perfect())
    result = task.evaluate(model, vocabulary, task.splits.test, [])
    assert result["chrf"] == pytest.approx(100)


def test_translator_by_the_config():
    config = load(ONE)
    vocabulary = task_of(config).new_vocabulary()
    translator = build_translator(config, vocabulary, built(config, vocabulary), num_best=2)
    assert translator.languages == {}
    assert translator.batch_sentences == 3
    assert translator.search == {
        "beam_size": 2, "length_penalty": 0.2, "coverage_penalty": 0.2, "num_best": 2,
    }  # fmt: skip


def test_empty_lines_are_errors(folder):
    (folder / "train.de").write_text(TEXT["train.de"].replace("drei", "", 1))
    with pytest.raises(data_pipelines.TextError, match=r"train.(de|en):2"):
        task_of(load(ONE)).corpus_statistics()


# Several directions.


def test_facts_and_report_of_several_directions():
    task = task_of(load(SEVERAL))
    facts = task.corpus_statistics()
    assert facts["train"] == {
        "files": ["train.en", "train.de", "train.de", "train.en", "more.en", "more.fr"],
        "sentences": 28,
        "words": 48 + 48 + 12,
    }
    assert facts["valid"]["sentences"] == 4
    assert facts["test"]["sentences"] == 10
    vocabulary = task.new_vocabulary()
    assert vocabulary.languages == ["de", "en", "fr"]
    lines = [" ".join(line.split()) for line in task.report(vocabulary)]
    assert lines[:3] == [
        "train 12 pairs 24 words en 24 de",
        "train 12 pairs 24 words de 24 en",
        "train 4 pairs 6 words en 6 fr",
    ]
    assert len(lines) == 3 + 2 + 3 + 1


def test_batches_of_several_directions():
    task = task_of(load(SEVERAL))
    vocabulary = task.new_vocabulary()
    assert [files.weight for files in task.splits.train] == [1, 1, 2]
    tags = {vocabulary.language_id(name): name for name in ("de", "en", "fr")}
    steps = task.batches_per_epoch(vocabulary)
    seen = set()
    for (source, _), targets in batches_of(task.training_batches(vocabulary, 0).take(2 * steps)):
        for a, b in zip(source, targets, strict=True):
            words = {"de": "eins zwei drei vier", "en": "one two three four"}
            words["fr"] = "un deux quatre"
            text = vocabulary.decode(b[b != 0])
            assert set(text.split()) <= set(words[tags[a[0]]].split())
            seen.add(tags[a[0]])
    assert seen == {"de", "en", "fr"}
    (source, _), _ = batches_of(task.validation_batches(vocabulary))[0]
    assert set(source[:, 0]) <= set(tags)


def test_find_files_of_several_directions():
    task = task_of(load(SEVERAL))
    assert task.find_files([]) == task.splits.test and len(task.splits.test) == 3
    (files,) = task.find_files([], "de-en")
    assert files.file_pairs == [("test.de", "test.en")]
    (files,) = task.find_files(["valid"], "de-en")
    assert files.file_pairs == [("valid.de", "valid.en")]
    message = "--direction must say what to translate --data from and to: en-de, de-en, en-fr"
    with pytest.raises(ValueError, match=message):
        task.find_files(["valid"])
    with pytest.raises(ValueError, match="--direction must be one of en-de, de-en, en-fr, got 'x'"):
        task.find_files([], "x")


def test_evaluate_several_directions():
    config = load(SEVERAL)
    task = task_of(config)
    vocabulary = task.new_vocabulary()
    model = built(config, vocabulary)
    result = task.evaluate(model, vocabulary, task.splits.test, [])
    assert list(result["directions"]) == ["en-de", "de-en", "en-fr"]
    for key in ("bleu", "chrf", "multi_bleu"):
        mean = np.mean([each[key] for each in result["directions"].values()])
        assert result[key] == pytest.approx(mean)
    assert [each["sentences"] for each in result["directions"].values()] == [3, 3, 4]
    assert result["sentences"] == 10
    assert json.loads(json.dumps(result)) == result
    lines = TranslationTask.summary(result).split("\n")
    assert [line.split(":")[0] for line in lines[:3]] == ["en-de", "de-en", "en-fr"]
    assert lines[3].startswith("mean BLEU ") and lines[3].endswith("on 10 sentences")
    one = task.evaluate(model, vocabulary, task.splits.test[:1], [])
    assert "directions" not in one
    assert one["bleu"] == pytest.approx(result["directions"]["en-de"]["bleu"])


def test_target_languages_are_sorted_and_of_several_directions_only():
    assert task_of(load(SEVERAL)).corpus.target_languages == ["de", "en", "fr"]
    assert task_of(load(ONE)).corpus.target_languages == []
    assert task_of(load(EMBEDDED)).corpus.target_languages == ["en", "fr", "ja"]
    assert task_of(load(EMBEDDED, "data.pairs=[en-ja]")).corpus.target_languages == []


def test_text_of_both_directions_is_read_once_for_the_vocabulary():
    files = task_of(load(SEVERAL)).splits.train
    kept = data_pipelines.without_reversed(files)
    assert kept == [files[0], files[2]]


# The embedded text.


def test_embedded_translation(folder):
    config = load(EMBEDDED)
    task = task_of(config)
    facts = task.corpus_statistics()
    assert {part: each["sentences"] for part, each in facts.items()} == {
        "train": 90, "valid": 12, "test": 15,
    }  # fmt: skip
    assert all(path.startswith(str(folder / "cache")) for path in facts["train"]["files"])
    vocabulary = task.new_vocabulary()
    assert vocabulary.languages == ["en", "fr", "ja"]
    model = built(config, vocabulary)
    (files,) = task.find_files([], "en-ja")
    result = task.evaluate(model, vocabulary, [files], [])
    assert result["sentences"] == 5 and "tok:char" in result["signature"]
    # Found again, also with other settings of use.
    again = task_of(load(EMBEDDED, "data.batch_tokens=128"))
    assert again.corpus_statistics() == facts
    other = task_of(load(EMBEDDED, "data.seed=1"))
    assert other.corpus_statistics()["train"]["files"] != facts["train"]["files"]


# Vocabularies.


def test_vocabulary_of_a_file(folder):
    task = task_of(load(ONE))
    task.new_vocabulary().save(folder / "v.model")
    subwords = task.load_vocabulary(folder / "v.model")
    size = len(subwords)
    same = [f"data.vocabulary={{file: v.model, size: {n}}}" for n in ("null", size)]
    for setting in same:
        config = load(ONE, setting)
        assert build_subwords(config, []).fingerprint == subwords.fingerprint
    config = load(ONE, f"data.vocabulary={{file: v.model, size: {size + 1}}}")
    with pytest.raises(ConfigError) as caught:
        task_of(config).new_vocabulary()
    assert str(caught.value) == (
        f"data.vocabulary.size: is {size + 1}, but v.model has {size} ids; set it to null"
    )
    with pytest.raises(ConfigError) as caught:
        task_of(load(SEVERAL, same[0])).new_vocabulary()
    assert str(caught.value).startswith(
        "data.vocabulary.file: v.model has symbols for the languages [], but this config "
        "translates into ['de', 'en', 'fr']"
    )
    (folder / "v.model").write_bytes(b"x")
    with pytest.raises(data_pipelines.TextError, match=r"v.model: not a subword model"):
        task_of(load(ONE, same[0])).new_vocabulary()


def test_vocabulary_that_is_too_small_for_the_characters():
    with pytest.raises(ConfigError) as caught:
        task_of(load(ONE, "data.vocabulary.size=8")).new_vocabulary()
    assert str(caught.value).startswith("data.vocabulary.size: must be at least ")


def test_character_coverage():
    """SentencePiece takes 0.98 to 1."""
    config = load(ONE, "data.vocabulary.character_coverage=0.98")
    assert len(task_of(config).new_vocabulary()) <= 60
    with pytest.raises(ConfigError, match=r"data\.vocabulary\.character_coverage"):
        task_of(load(ONE, "data.vocabulary.character_coverage=0.5")).new_vocabulary()


def test_no_size_and_no_file_of_a_vocabulary():
    """Schema: "null for that of `file`". Without a file there is nothing to take it from."""
    with pytest.raises(ConfigError, match=r"data\.vocabulary\.size"):
        task_of(load(ONE, "data.vocabulary.size=null")).new_vocabulary()


# What does not go together.


@pytest.mark.parametrize(
    ("data", "overrides", "message"),
    [
        (
            "data: {name: text, train: x}\n",
            [],
            "config.yaml:11: data.name: must be one of parallel, wmt14, embedded_translation for "
            "model.name=translation, got text",
        ),
        (
            "data: {name: grammars}\n",
            [],
            "config.yaml:11: data.name: must be one of parallel, wmt14, embedded_translation for "
            "model.name=translation, got grammars",
        ),
        (
            ONE,
            ["data.source_language=null"],
            "--set data.source_language=null: data.source_language: is missing; or give "
            "directions for several",
        ),
        (
            ONE,
            ["data.train=[]"],
            "--set data.train=[]: data.train: is missing; or give directions for several",
        ),
        *(
            (
                SEVERAL,
                [f"data.{key}=x"],
                f"--set data.{key}=x: data.{key}: must not be given beside directions, which have "
                "their own",
            )
            for key in ("train", "valid", "test", "source_language", "target_language")
        ),
        (
            SEVERAL,
            ["data.directions[2].weight=0"],
            "--set data.directions[2].weight=0: data.directions[2].weight: must be a number "
            "above 0, got 0",
        ),
        (
            SEVERAL,
            ["data.directions[0].train=[]"],
            "--set data.directions[0].train=[]: data.directions[0].train: must be a list of at "
            "least one item, got []",
        ),
        *(
            (
                EMBEDDED,
                [f"data.pairs={pairs}"],
                f"--set data.pairs={pairs}: data.pairs[{index}]: must be two "
                "different languages of en, fr, de, es, pt, ja, ko, such as en-fr, each pair "
                f"once; got '{got}'",
            )
            for pairs, index, got in [
                ("[en-xx]", 0, "en-xx"),
                ("[en-fr, fr-fr]", 1, "fr-fr"),
                ("[en-fr, en-fr]", 1, "en-fr"),
                ("[enfr]", 0, "enfr"),
                ("[en-fr-de]", 0, "en-fr-de"),
            ]
        ),
        (
            EMBEDDED,
            ["data.pairs=[]"],
            "--set data.pairs=[]: data.pairs: must be a list of at least one item, got []",
        ),
        (
            ONE,
            ["model.decoder[0]={name: lstm, units: 8}"],
            "--set model.decoder[0]={name: lstm, units: 8}: model.decoder[0].name: must be "
            "attention_lstm: the first block of the decoder, and no other, feeds the attention; "
            "got lstm",
        ),
        (
            ONE,
            ["model.decoder[1].name=attention_lstm"],
            "--set model.decoder[1].name=attention_lstm: model.decoder[1].name: must not be "
            "attention_lstm: the first block of the decoder, and no other, feeds the attention; "
            "got attention_lstm",
        ),
        (
            ONE,
            ["model.encoder[0].name=attention_lstm"],
            "--set model.encoder[0].name=attention_lstm: model.encoder[0].name: must be one of "
            "lstm, moe, feed_forward, got 'attention_lstm'",
        ),
        (
            ONE,
            ["model.encoder[1].gate.k=5"],
            "--set model.encoder[1].gate.k=5: model.encoder[1].gate.k: must be at most 4, the "
            "number of experts (of groups, at the first level of a hierarchical mixture) to "
            "choose from, got k=5",
        ),
        (
            ONE,
            ["model.encoder[1].groups=4"],
            "config.yaml:6: model.encoder[1].gate.k: must be at most 1, the number of experts (of "
            "groups, at the first level of a hierarchical mixture) to choose from, got k=2",
        ),
        (
            ONE,
            ["model.decoder[0].projection_units=null"],
            "config.yaml:8: model.decoder[0].units: the block's output is 12 wide, but the "
            "residual connection needs model.d_model=8; set projection_units: 8",
        ),
        (
            ONE,
            ["model.decoder[0].attention=dot"],
            "--set model.decoder[0].attention=dot: model.decoder[0].attention: must be "
            "multiplicative or additive, got 'dot'",
        ),
        (
            ONE,
            ["model.decoding.beam_size=0"],
            "--set model.decoding.beam_size=0: model.decoding.beam_size: must be an integer of at "
            "least 1, got 0",
        ),
        (
            ONE,
            ["data.vocabulary.size=4"],
            "--set data.vocabulary.size=4: data.vocabulary.size: must be an integer of at least "
            "5, or null, got 4",
        ),
        (ONE, ["model.decoder=[]"], "--set model.decoder=[]: model.decoder: must be a list of at"),
        (ONE, ["model.encoder=[]"], "--set model.encoder=[]: model.encoder: must be a list of at"),
    ],
)
def test_problems(data, overrides, message):
    (line,) = problems(data, *overrides)
    assert line.startswith(message)


def test_no_languages_at_all():
    lines = problems("data: {name: parallel, train: train}\n")
    assert [line.split(": ")[1] for line in lines] == [
        "data.source_language", "data.target_language",
    ]  # fmt: skip
    assert all("is missing; or give directions for several" in line for line in lines)


def test_data_for_translation_under_a_language_model():
    with open("config.yaml", "w") as file:
        file.write("model: {d_model: 8, blocks: [{name: lstm, units: 8}]}\n" + ONE)
    with pytest.raises(ConfigError) as caught:
        load_config("config.yaml")
    (line,) = str(caught.value).split("\n")
    assert "data.name: must be one of text, lm1b, embedded_text, grammars for model." in line
    assert line.endswith("got parallel")


def test_two_corpora_of_one_direction():
    """The results of a direction are kept by its name."""
    config = load(
        SEVERAL,
        "data.directions[1]={source_language: en, target_language: de, train: valid, test: valid}",
        "data.directions[2]={source_language: de, target_language: en, train: train}",
    )
    task = task_of(config)
    vocabulary = task.new_vocabulary()
    result = task.evaluate(built(config, vocabulary), vocabulary, task.splits.test, [])
    assert result["sentences"] == 3 + 2
