"""Translation in one direction."""

import json
import math

import numpy as np
import pytest
import tensorflow as tf
from tasks.translation.small_corpora import ONE, TEXT, batches_of, built, load

from tfmoe import data_pipelines
from tfmoe.tasks import task_of
from tfmoe.tasks.translation import TranslationTask, build_translator


def pairs_of(batches, vocabulary):
    """Checks batches, and returns their sorted `(source, target)` texts."""
    pairs = []
    for (source, target), targets in batches:
        assert source.dtype == target.dtype == targets.dtype == np.int32
        np.testing.assert_array_equal(target[:, 0], 1)
        np.testing.assert_array_equal(target[:, 1:], targets[:, :-1])
        for a, b in zip(source, targets, strict=True):
            pairs.append((vocabulary.decode(a[a != 0]), vocabulary.decode(b[b != 0])))
    return sorted(pairs)


def test_creating_a_task_reads_nothing():
    config = load(ONE, "data.train=nowhere")
    task = task_of(config)
    assert isinstance(task, TranslationTask)
    with pytest.raises(data_pipelines.TextError, match=r"nowhere.en: no such file"):
        task.corpus_statistics()


def test_statistics_and_report():
    task = task_of(load(ONE))
    facts = task.corpus_statistics()
    assert all(len(part.pop("content")) == 20 for part in facts.values())
    assert facts == {
        "train": {"files": ["train.en", "train.de"], "sentences": 12, "words": 48},
        "valid": {"files": ["valid.en", "valid.de"], "sentences": 2, "words": 6},
        "test": {"files": ["test.en", "test.de"], "sentences": 3, "words": 8},
    }
    json.dumps(task.corpus_statistics())  # as a run stores them
    vocabulary = task.new_vocabulary()
    lines = [" ".join(line.split()) for line in task.report(vocabulary)]
    assert lines == [
        "train 12 pairs 24 words en 24 de",
        "valid 2 pairs 3 words en 3 de",
        "test 3 pairs 4 words en 4 de",
        f"vocabulary of {len(vocabulary)} subwords",
    ]
    assert len(vocabulary) <= 60 and vocabulary.languages == []


def test_report_of_too_long_pairs():
    task = task_of(load(ONE, "data.max_length=4"))
    vocabulary = task.new_vocabulary()
    sides = [TEXT[name].splitlines() for name in ("train.en", "train.de")]
    pairs = list(zip(*map(vocabulary.encoded_lengths, sides), strict=True))
    too_long = sum(max(pair) > 4 for pair in pairs)
    assert 0 < too_long < 12
    line = f"{too_long} training pairs are longer than max_length=4"
    assert list(task.report(vocabulary))[-2] == line


def test_batches():
    config = load(ONE)
    task = task_of(config)
    vocabulary = task.new_vocabulary()
    steps = task.batches_per_epoch(vocabulary)
    training = batches_of(task.training_batches(vocabulary).dataset().take(2 * steps))
    expected = sorted(
        zip(TEXT["train.en"].splitlines(), TEXT["train.de"].splitlines(), strict=True)
    )
    for part in (training[:steps], training[steps:]):
        assert pairs_of(part, vocabulary) == expected
    for (source, target), _ in training:
        assert source.size + target.size <= 64
    later = batches_of(task.training_batches(vocabulary).dataset(steps - 1).take(2))
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
        "encoder_moe_1_dropped", "encoder_moe_1_selected_per_token",
        "encoder_moe_1_experts_per_token", "encoder_moe_1_unrouted",
    }  # fmt: skip
    assert result["sentences"] == 3
    # All subwords of the targets, and three ends of sentences.
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


def test_translator_has_the_settings_of_the_config():
    config = load(ONE, "model.decoding.pruning=3")
    vocabulary = task_of(config).new_vocabulary()
    translator = build_translator(config, vocabulary, built(config, vocabulary), num_best=2)
    assert translator.languages == {}
    assert translator.batch_sentences == 3
    assert translator.search == {
        "beam_size": 2, "length_penalty": 0.2, "coverage_penalty": 0.2, "num_best": 2,
        "pruning": 3.0,
    }  # fmt: skip


def test_empty_lines_are_errors(folder):
    (folder / "train.de").write_text(TEXT["train.de"].replace("drei", "", 1))
    with pytest.raises(data_pipelines.TextError, match=r"train.(de|en):2"):
        task_of(load(ONE)).corpus_statistics()
