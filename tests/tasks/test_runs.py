"""Loading of runs, and folders of generated text."""

import json

import numpy as np
import pytest
import tensorflow as tf
from tasks.started_run import started_run

from tfmoe.config import load_config
from tfmoe.data_pipelines import Vocabulary
from tfmoe.tasks import load_run
from tfmoe.tasks.corpora import corpus_directory, find_splits
from tfmoe.tasks.registry import task_of
from tfmoe.tasks.runs import load_vocabulary

CONFIG = """\
model:
  name: language_model
  d_model: 2
  blocks: [{name: feed_forward, hidden_units: 3}]
data: {name: grammars, grammars: 2, symbols: 3, successors: 2, train_sentences: 9}
"""
WORDS = ["</S>", "<S>", "<UNK>", "a", "b"]


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("TFMOE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "config.yaml").write_text(CONFIG)
    return load_config(tmp_path / "config.yaml")


@pytest.fixture
def run(config, tmp_path):
    """A run after 0 training steps, with best weights."""
    run, model, state = started_run(config, tmp_path / "run", Vocabulary(WORDS))
    model.softmax.bias.assign([1, 2, 3, 4, 5])
    state.save_best()
    return run


def test_load_run(run, config):
    loaded = load_run(run.path)
    assert loaded.config == config
    assert loaded.vocabulary.decode(range(5)) == WORDS
    np.testing.assert_array_equal(loaded.model.softmax.bias, [1, 2, 3, 4, 5])
    tokens = tf.constant([[1, 3, 4]])
    assert loaded.model.negative_log_likelihood(tokens, tf.constant([[3, 4, 0]])).shape == (3,)
    last = load_run(str(run.path), "last").model
    np.testing.assert_array_equal(last.softmax.bias, np.zeros(5))
    np.testing.assert_array_equal(
        last.embedding.embeddings, loaded.model.embedding.embeddings.numpy()
    )


def test_not_a_run(tmp_path, run):
    with pytest.raises(
        FileNotFoundError, match=r"nowhere is not the folder of a run: it has no con"
    ):
        load_run(tmp_path / "nowhere")
    run.facts.unlink()
    with pytest.raises(FileNotFoundError, match=r"it has no run\.json"):
        load_run(run.path)


def test_no_weights(run):
    (run.checkpoints / "checkpoint").unlink()
    load_run(run.path)
    with pytest.raises(FileNotFoundError, match="has no 'last' weights yet"):
        load_run(run.path, "last")


def test_vocabulary(run, config):
    assert len(load_vocabulary(run, task_of(config))) == 5
    run.vocabulary.write_text("\n".join([*WORDS[:3], "b", "a"]) + "\n")  # other ids
    with pytest.raises(ValueError, match=r"vocabulary\.txt is not the vocabulary of this run: its"):
        load_vocabulary(run, task_of(config))
    with pytest.raises(ValueError, match=r"restore the file that the run was started with$"):
        load_run(run.path)


def test_folder_of_generated_text(config, tmp_path, monkeypatch):
    """Its name depends on the settings of the corpus, not on vocabulary and batches."""
    folder = corpus_directory(config.data)
    assert folder.parent == tmp_path / "cache" and folder.name.startswith("grammars-")
    same = load_config(tmp_path / "config.yaml", ["data.batch_tokens=7", "data.vocabulary.size=9"])
    assert corpus_directory(same.data) == folder
    other = load_config(tmp_path / "config.yaml", ["data.seed=1"])
    assert corpus_directory(other.data) != folder
    monkeypatch.delenv("TFMOE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert corpus_directory(config.data) == tmp_path / "xdg" / "tfmoe" / folder.name
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert corpus_directory(config.data) == tmp_path / "home" / ".cache" / "tfmoe" / folder.name


FOLDERS = {  # as in version 0.1.0, whose runs must find their text when they resume
    "name: lm1b, root: /x": "lm1b-03e93d7ccdba",
    "name: grammars": "grammars-d63582467b83",
    "name: grammars, skew: 2, seed: 3": "grammars-47ef2734920f",
    "name: embedded_text": "embedded_text-d2b580bec87a",
    "name: embedded_text, words: {english: 5}, languages: [de], seed: 1": (
        "embedded_text-d221aaf74f47"
    ),
}
PARALLEL_FOLDERS = {
    "name: parallel, train: x, source_language: de, target_language: en, test: [a, b]": (
        "parallel-e8a05cc0c6c3"
    ),
    "name: parallel, directions: [{source_language: de, target_language: en, train: a, weight: 2}, "
    "{source_language: en, target_language: de, train: a, valid: [b]}]": "parallel-97342289d91a",
    "name: wmt14, root: /d, target_language: fr": "wmt14-19e8412595ce",
    "name: embedded_translation": "embedded_translation-8903ecbcfc5f",
    "name: embedded_translation, pairs: [en-fr, ja-en], sentences: 9, seed: 4": (
        "embedded_translation-e1ac61236831"
    ),
}


@pytest.mark.parametrize(
    ("path", "data", "folder"),
    [
        *(("demo/language_model", *item) for item in FOLDERS.items()),
        *(("demo/translation", *item) for item in PARALLEL_FOLDERS.items()),
    ],
)
def test_folders_of_version_0_1(path, data, folder):
    assert corpus_directory(load_config(path, [f"data={{{data}}}"]).data).name == folder


def test_find_splits(config, tmp_path):
    splits = find_splits(config)
    folder = corpus_directory(config.data)
    assert splits.train == [str(folder / "train.txt")]
    assert len((folder / "train.txt").read_text().splitlines()) == 9
    assert json.loads((folder / "corpus.json").read_text())["made_from"]["grammars"] == 2
