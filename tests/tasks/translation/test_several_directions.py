"""Translation in several directions."""

import json

import numpy as np
import pytest
from tasks.translation.small_corpora import EMBEDDED, ONE, SEVERAL, batches_of, built, load

from tfmoe import data_pipelines
from tfmoe.tasks import task_of
from tfmoe.tasks.translation import TranslationTask


def test_statistics_and_report_of_several_directions():
    task = task_of(load(SEVERAL))
    facts = task.corpus_statistics()
    assert len(facts["train"].pop("content")) == 20
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
    batches, seen = task.training_batches(vocabulary), set()
    for (source, _), targets in batches_of(batches.dataset().take(2 * steps)):
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
    message = "--direction must be given with --data: one of en-de, de-en, en-fr"
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
        mean = np.mean([scores[key] for scores in result["directions"].values()])
        assert result[key] == pytest.approx(mean)
    assert [scores["sentences"] for scores in result["directions"].values()] == [3, 3, 4]
    assert result["sentences"] == 10
    assert json.loads(json.dumps(result)) == result
    lines = TranslationTask.summary(result).split("\n")
    assert [line.split(":")[0] for line in lines[:3]] == ["en-de", "de-en", "en-fr"]
    assert all("|tok:13a|" in line for line in lines)
    assert lines[3].startswith("mean BLEU ") and lines[3].endswith("on 10 sentences")
    one = task.evaluate(model, vocabulary, task.splits.test[:1], [])
    assert "directions" not in one
    assert one["bleu"] == pytest.approx(result["directions"]["en-de"]["bleu"])


def test_target_languages_are_sorted_and_empty_for_one_direction():
    assert task_of(load(SEVERAL)).corpus.target_languages == ["de", "en", "fr"]
    assert task_of(load(ONE)).corpus.target_languages == []
    assert task_of(load(EMBEDDED)).corpus.target_languages == ["en", "fr", "ja"]
    assert task_of(load(EMBEDDED, "data.pairs=[en-ja]")).corpus.target_languages == []


def test_the_vocabulary_is_trained_on_one_of_two_reversed_directions():
    files = task_of(load(SEVERAL)).splits.train
    kept = data_pipelines.without_reversed(files)
    assert kept == [files[0], files[2]]


def test_two_corpora_of_one_direction():
    """Results are grouped by direction."""
    config = load(
        SEVERAL,
        "data.directions[1]={source_language: en, target_language: de, train: valid, test: valid}",
        "data.directions[2]={source_language: de, target_language: en, train: train}",
    )
    task = task_of(config)
    vocabulary = task.new_vocabulary()
    result = task.evaluate(built(config, vocabulary), vocabulary, task.splits.test, [])
    assert result["sentences"] == 3 + 2
