"""`tfmoe train` and `tfmoe evaluate` of a translation model, on tiny parallel text."""

import csv
import json
import math
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe import data_pipelines

CONFIG = """\
model:
  name: translation
  d_model: 8
  dropout: 0.1
  encoder:
    - name: moe
      num_experts: 4
      hidden_units: 8
      gate: {name: batchwise, k: 2}
  decoder:
    - {name: attention_lstm, units: 8}
  decoding: {beam_size: 2, batch_sentences: 2}
data:
  name: parallel
  train: train
  valid: valid
  test: test
  source_language: en
  target_language: de
  vocabulary: {size: 40}
  batch_words: 100
  max_length: 20
training: {epochs: 2, checkpoint_every_steps: 3}
"""
SEVERAL = """\
model:
  name: translation
  d_model: 8
  encoder: [{name: lstm, units: 8}]
  decoder: [{name: attention_lstm, units: 8}]
  decoding: {beam_size: 1, batch_sentences: 2}
data:
  name: parallel
  directions:
    - {source_language: en, target_language: de, train: train, valid: valid, test: test}
    - {source_language: de, target_language: en, train: train, test: test}
  vocabulary: {size: 40}
  batch_words: 200
  max_length: 20
training: {epochs: 1}
"""
TEXT = {  # 24, 2 and 3 pairs
    "train.en": "one two\nthree\nfour one two\ntwo\n" * 6,
    "train.de": "eins zwei\ndrei\nvier eins zwei\nzwei\n" * 6,
    "valid.en": "one three\ntwo\n",
    "valid.de": "eins drei\nzwei\n",
    "test.en": "four\none\ntwo three\n",
    "test.de": "vier\neins\nzwei drei\n",
}
QUALITY = {
    "bleu", "signature", "chrf", "chrf_signature", "multi_bleu", "sentences", "perplexity",
    "tokens", "loss",
}  # fmt: skip
USE = {
    f"encoder_moe_0_{name}"
    for name in ("cv_importance", "cv_load", "max_over_mean_load", "unused_experts", "dropped",
                 "selected_per_token", "experts_per_token", "unrouted")
}  # fmt: skip


class Killed(BaseException):
    """Ends training like a kill: tfmoe does not handle it."""


@pytest.fixture(scope="module")
def parallel(tmp_path_factory):
    """A folder with the text, one.yaml and several.yaml. Tests must not change it."""
    folder = tmp_path_factory.mktemp("parallel")
    for name, text in {**TEXT, "one.yaml": CONFIG, "several.yaml": SEVERAL}.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def tfmoe(command, parallel, monkeypatch):
    """The fixture `command`, in the folder of the parallel text."""
    monkeypatch.chdir(parallel)
    return command


@pytest.fixture(scope="module")
def run(train, parallel, tmp_path_factory):
    """A finished run of one.yaml. Tests must not change it."""
    return train(parallel / "one.yaml", tmp_path_factory.mktemp("runs") / "one")


@pytest.fixture(scope="module")
def several(train, parallel, tmp_path_factory):
    """A finished run of several.yaml. Tests must not change it."""
    return train(parallel / "several.yaml", tmp_path_factory.mktemp("runs") / "several")


def history(run):
    """Rows of history.csv as text, without durations."""
    with open(run / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        del row["seconds"], row["words_per_second"]
    return rows


def result(run):
    """result.json without durations."""
    content = json.loads((run / "result.json").read_text())
    return {name: value for name, value in content.items() if not name.startswith("seconds")}


def same_state(run, other):
    """Asserts that two runs have the same last state and the same best weights, bit by bit."""
    for folder in ("checkpoints", "checkpoints/best"):
        one, two = (tf.train.load_checkpoint(str(path / folder)) for path in (run, other))
        names = set(one.get_variable_to_shape_map())
        assert names == set(two.get_variable_to_shape_map())
        names -= {"_CHECKPOINTABLE_OBJECT_GRAPH", "save_counter/.ATTRIBUTES/VARIABLE_VALUE"}
        assert len(names) > 5
        for name in names:
            np.testing.assert_array_equal(one.get_tensor(name), two.get_tensor(name), name)


def test_files_of_a_run(run):
    assert {path.name for path in run.path.iterdir()} == {
        "config.yaml", "run.json", "vocabulary.model", "checkpoints", "history.csv", "logs",
        "result.json",
    }  # fmt: skip
    subwords = data_pipelines.Subwords.load(run.path / "vocabulary.model")
    assert len(subwords) <= 40 and subwords.languages == []
    facts = json.loads((run.path / "run.json").read_text())
    assert facts["vocabulary"] == subwords.fingerprint
    assert facts["text"]["train"] == {
        "files": ["train.en", "train.de"], "content": facts["text"]["train"]["content"],
        "sentences": 24, "words": 84,
    }  # fmt: skip


def test_output_of_a_run(run):
    # A slow machine shows the progress of translating.
    assert all(line.startswith("translating en-de: ") for line in run.err.splitlines())
    lines = [" ".join(line.split()) for line in run.out.splitlines()]
    assert lines[1:4] == [
        "train 24 pairs 42 words en 42 de",
        "valid 2 pairs 3 words en 3 de",
        "test 3 pairs 4 words en 4 de",
    ]
    assert [line for line in lines if line.startswith("Epoch ")] == ["Epoch 1/2", "Epoch 2/2"]
    assert lines[-2].startswith("test: BLEU ")
    assert lines[-2].endswith(" per subword, on 3 sentences")
    assert lines[-1] == f"The run is in {run.path}"


def test_result_and_history(run):
    measured = json.loads((run.path / "result.json").read_text())
    assert set(measured) == QUALITY | USE | {
        "evaluated_on", "ops_per_timestep", "parameters", "words_trained", "epochs", "seconds",
        "seconds_since_start",
    }  # fmt: skip
    assert measured["evaluated_on"] == "test"
    assert measured["sentences"] == 3
    assert measured["perplexity"] == pytest.approx(math.exp(measured["loss"]), rel=1e-6)
    assert all(0 <= measured[name] <= 100 for name in ("bleu", "chrf", "multi_bleu"))
    subwords = data_pipelines.Subwords.load(run.path / "vocabulary.model")
    source, target = (
        sum(subwords.encoded_lengths(TEXT[f"train.{name}"].splitlines())) for name in ("en", "de")
    )
    assert measured["words_trained"] == 2 * (source + target + 24)
    rows = history(run.path)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert {int(row["words"]) for row in rows} == {source + target + 24}
    for name, value in ((name, value) for row in rows for name, value in row.items()):
        # At evaluation there is no batchwise mask to compare the thresholds with.
        assert math.isfinite(float(value)) != name.startswith("val_encoder_moe_0_threshold"), name
    # An LSTM of 4·(2·8 + 8)·8, 2 of 4 experts, and the softmax. The paper does not count gates.
    assert measured["ops_per_timestep"] == 768 + 2 * 128 + 8 * len(subwords)


@pytest.mark.slow
def test_resumed_run_equals_uninterrupted_run(tfmoe, run, monkeypatch):
    path = run.path.parent / "interrupted"
    train = ["train", "one.yaml", "--run-dir", path]
    original = keras.callbacks.TensorBoard.on_train_batch_end

    def stop(self, batch, logs=None):
        original(self, batch, logs)
        if int(self.model.optimizer.iterations) == 4:  # in the first epoch or a later one
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(keras.callbacks.TensorBoard, "on_train_batch_end", stop)
        with pytest.raises(Killed):
            tfmoe(*train)
    assert not (path / "result.json").exists()
    status, out, err = tfmoe(*train, "--resume")
    assert status == 0, err
    assert f"resuming {path} after " in out
    same_state(path, run.path)
    assert history(path) == history(run.path)
    assert result(path) == result(run.path)


def test_evaluate_equals_the_result_of_the_run(tfmoe, run):
    status, out, err = tfmoe("evaluate", run.path, "--json")
    assert status == 0, err
    measured = json.loads(out)
    assert set(measured) == QUALITY | USE
    expected = result(run.path)
    for name, value in measured.items():
        assert value == (pytest.approx(expected[name]) if name != "signature" else value), name
    assert measured["signature"] == expected["signature"]


def test_evaluate_other_text(tfmoe, run):
    status, out, err = tfmoe("evaluate", run.path, "--data", "valid", "--json")
    assert status == 0, err
    assert json.loads(out)["sentences"] == 2
    status, out, err = tfmoe("evaluate", run.path, "--data", "valid", "--direction", "en-de")
    assert status == 0, err
    assert out.startswith("BLEU ") and out.endswith(" per subword, on 2 sentences\n")
    assert "directions" not in out


def test_evaluate_without_reading_the_text_of_training(tfmoe, run, parallel, tmp_path, monkeypatch):
    """A run that was copied to another machine, which has another text."""
    for name in ("en", "de"):
        shutil.copy(parallel / f"valid.{name}", tmp_path / f"mine.{name}")
    monkeypatch.chdir(tmp_path)
    status, out, err = tfmoe("evaluate", run.path, "--data", "mine", "--json")
    assert status == 0, err
    assert json.loads(out)["sentences"] == 2


@pytest.fixture
def refused(tfmoe):
    """A function that runs a command which must fail with one line on standard error."""

    def refused(*arguments):
        status, _, err = tfmoe(*arguments)
        assert status == 2, err
        assert err.count("\n") == 1 and "Traceback" not in err, err
        return err

    return refused


def test_evaluate_errors(refused, run):
    assert "nowhere.en: no such file" in refused("evaluate", run.path, "--data", "nowhere")
    message = "--direction must be one of en-de, got 'de-en'"
    assert message in refused("evaluate", run.path, "--direction", "de-en")
    assert message in refused("evaluate", run.path, "--data", "valid", "--direction", "de-en")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("vocabulary.model", None, "vocabulary"),
        ("vocabulary.model", b"x", "vocabulary.model: not a subword model"),
    ],
)
def test_damaged_run(refused, run, tmp_path, file, content, message):
    copy = shutil.copytree(run.path, tmp_path / "run")
    (copy / file).unlink()
    if content is not None:
        (copy / file).write_bytes(content)
    assert message in refused("train", "one.yaml", "--run-dir", copy, "--resume")
    assert message in refused("evaluate", copy)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.train=nowhere", "nowhere.en: no such file"),
        ("data.vocabulary.size=5", "data.vocabulary.size: must be at least "),
        ("data.vocabulary.file=none.model", "none.model: no such file"),
        ("data.max_length=1", "no pair of sentences with at most 1 pieces"),
        ("model.decoder=[{name: lstm, units: 8}]", "model.decoder: must have a block attention_"),
    ],
)
def test_train_errors(refused, tmp_path, setting, message):
    train = ["train", "one.yaml", "--run-dir", tmp_path / "run", "--set", setting]
    assert message in refused(*train)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_files_of_different_lengths(refused, parallel, tmp_path):
    for name in ("en", "de"):
        shutil.copy(parallel / f"train.{name}", tmp_path / f"odd.{name}")
    with open(tmp_path / "odd.de", "a") as file:
        file.write("drei\n")
    setting = f"data.train={tmp_path}/odd"
    err = refused("train", "one.yaml", "--run-dir", tmp_path / "run", "--set", setting)
    assert "odd.de" in err and "24" in err


@pytest.mark.slow
def test_several_directions(tfmoe, several):
    measured = result(several.path)
    assert list(measured["directions"]) == ["en-de", "de-en"]
    assert measured["sentences"] == 6
    lines = several.out.splitlines()
    assert [line.split(":")[0] for line in lines[-4:-2]] == ["test", "de-en"]
    assert lines[-2].startswith("mean BLEU ")
    status, out, err = tfmoe("evaluate", several.path, "--json")
    assert status == 0, err
    everything = json.loads(out)
    assert everything["bleu"] == pytest.approx(measured["bleu"])
    status, out, err = tfmoe("evaluate", several.path, "--direction", "de-en", "--json")
    assert status == 0, err
    one = json.loads(out)
    assert one["sentences"] == 3 and "directions" not in one
    assert one["bleu"] == pytest.approx(everything["directions"]["de-en"]["bleu"])


def test_data_of_a_model_of_several_directions(tfmoe, several):
    status, out, err = tfmoe(
        "evaluate", several.path, "--data", "valid", "--direction", "de-en", "--json"
    )
    assert status == 0, err
    assert json.loads(out)["sentences"] == 2


def test_data_needs_a_direction(refused, several):
    err = refused("evaluate", several.path, "--data", "valid")
    assert "--direction must be given with --data: one of en-de, de-en" in err


def test_direction_is_for_translation_models(command, finished):
    status, _, err = command("evaluate", finished.path, "--direction", "en-de")
    assert status == 2 and err.startswith("tfmoe: --direction is for translation models")
