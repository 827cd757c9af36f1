"""`tfmoe train` of a language model."""

import csv
import json
import math
import pathlib
import shlex
import shutil
import signal
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.tasks.resume import differences


class Killed(BaseException):
    """Ends training like a kill: tfmoe does not handle it."""


@pytest.fixture
def stop_at(monkeypatch):
    """A function that raises an error after a training step, in Keras' TensorBoard callback (the
    last one).
    """
    original = keras.callbacks.TensorBoard.on_train_batch_end

    def stop_at(step, error):
        def stop(self, batch, logs=None):
            original(self, batch, logs)
            if int(self.model.optimizer.iterations) == step:
                raise error

        monkeypatch.setattr(keras.callbacks.TensorBoard, "on_train_batch_end", stop)

    return stop_at


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


def copy(run, path):
    return shutil.copytree(run.path, path)


def test_files_of_a_run(finished):
    assert {path.name for path in finished.path.iterdir()} == {
        "config.yaml", "run.json", "vocabulary.txt", "checkpoints", "history.csv", "logs",
        "result.json",
    }  # fmt: skip
    words = (finished.path / "vocabulary.txt").read_text().split()
    assert words == ["</S>", "<S>", "<UNK>", "c", "b", "d", "a", "e"]
    for part in ("train", "validation"):
        (events,) = (finished.path / "logs" / part).glob("events.out.tfevents.*")
        assert events.stat().st_size > 0


def test_output_of_a_run(finished):
    assert finished.err == ""
    assert "\b" not in finished.out and "\r" not in finished.out
    lines = finished.out.splitlines()
    # 4 of the 90 words, "rare", are not among the 5 most frequent.
    words = [" ".join(line.split()) for line in lines]
    assert words[1] == "train 30 sentences 90 words 4.44% out of vocabulary"
    assert words[3] == "test 3 sentences 8 words 25.00% out of vocabulary"
    epochs = [index for index, line in enumerate(lines) if line.startswith("Epoch ")]
    assert [lines[index] for index in epochs] == [f"Epoch {epoch}/4" for epoch in (1, 2, 3, 4)]
    for index in epochs:
        assert " - loss: " in lines[index + 1] and " - val_perplexity: " in lines[index + 1]
    summary = "on 11 tokens (ends of sentences included), 2 of them out of vocabulary"
    assert lines[-2].endswith(summary)
    assert lines[-1] == f"The run is in {finished.path}"


def test_result_and_history(finished):
    content = json.loads((finished.path / "result.json").read_text())
    assert content["evaluated_on"] == "test"
    assert (content["tokens"], content["oov"]) == (8 + 3, 2)
    assert content["perplexity"] == pytest.approx(math.exp(content["loss"]), rel=1e-12)
    # Per token: 2 experts of 2·4·4, and the gate's two matrices of 4·4 (one for the noise).
    assert content["ops_per_timestep"] == 2 * 32 + 2 * 16
    assert content["parameters"]["experts"] == 4 * 32
    assert content["parameters"]["total"] == 2 * 8 * 4 + 8 + 4 * 32 + 2 * 16
    assert content["words_trained"] == 4 * (90 + 30)
    assert content["epochs"] == 4
    rows = history(finished.path)
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert {row["words"] for row in rows} == {"120"}
    assert {row["val_words"] for row in rows} == {"12"}
    assert all(math.isfinite(float(value)) for row in rows for value in row.values())
    for row in rows:
        perplexity = math.exp(float(row["val_loss"]))
        assert perplexity == pytest.approx(float(row["val_perplexity"]), rel=1e-6)
    best = min(float(row["val_perplexity"]) for row in rows)
    last = tf.train.load_checkpoint(str(finished.path / "checkpoints"))
    assert last.get_tensor("best") == best


def test_error_then_kill_then_stop_then_finish(command, refused, stop_at, finished):
    """30 rows of 8 positions in batches of 64 are 4 steps per epoch, 16 in total."""
    run = finished.path.parent / "interrupted"
    train = ["train", "tiny.yaml", "--run-dir", run]
    assert "nowhere.txt" in refused(*train, "--set", "data.test=nowhere.txt")
    assert not (run / "config.yaml").exists()

    stop_at(2, Killed())  # in the first epoch, before any state is saved
    with pytest.raises(Killed):
        command(*train)
    assert not (run / "history.csv").exists()

    stop_at(11, KeyboardInterrupt())  # in the third epoch; step 9 was saved
    status, _, err = command(*train, "--resume")
    resume = f"tfmoe train {run}/config.yaml --run-dir {run} --resume"
    assert (status, err) == (130, f"\ntfmoe: stopped training; resume with: {resume}\n")
    assert [row["epoch"] for row in history(run)] == ["1", "2"]

    # The files that a kill leaves behind while step 12 is being saved.
    checkpoints = run / "checkpoints"
    (checkpoints / "last-12_temp").mkdir()
    (checkpoints / "last-12_temp" / "part-00000-of-00001.data-00000-of-00001").write_bytes(b"x")
    data = (checkpoints / "last-9.data-00000-of-00001").read_bytes()
    (checkpoints / "last-12.data-00000-of-00001").write_bytes(data[: len(data) // 2])

    stop_at(0, None)
    status, out, err = command(*shlex.split(resume)[1:])
    assert (status, err) == (0, "")
    assert f"resuming {run} after step 1 of 4 in epoch 3\n" in out
    assert [line for line in out.splitlines() if line[:5] == "Epoch"] == ["Epoch 3/4", "Epoch 4/4"]
    same_state(run, finished.path)
    assert history(run) == history(finished.path)
    assert result(run) == result(finished.path)


@pytest.mark.slow
@pytest.mark.parametrize("every_steps", ["null", "1", "3"])
def test_stopped_anywhere(command, stop_at, monkeypatch, finished, every_steps, tmp_path):
    train = ["train", "tiny.yaml", "--run-dir", tmp_path / "run", "--resume"]
    train += ["--set", f"training.checkpoint_every_steps={every_steps}"]
    status, _, _ = command(*train, "--set", "training.epochs=1")  # then with more epochs
    assert status == 0
    assert (tmp_path / "run" / "result.json").exists()

    stop_at(7, Killed())  # in the second epoch
    with pytest.raises(Killed):
        command(*train)
    assert not (tmp_path / "run" / "result.json").exists()
    stop_at(0, None)

    def stop(*_, **__):
        raise Killed

    for method in ("on_test_begin", "on_epoch_end", "on_train_end"):
        with monkeypatch.context() as patch:
            patch.setattr(keras.callbacks.TensorBoard, method, stop)
            with pytest.raises(Killed):
                command(*train)
    assert command(*train)[0] == 0
    same_state(tmp_path / "run", finished.path)
    assert history(tmp_path / "run") == history(finished.path)
    assert result(tmp_path / "run") == result(finished.path)
    # The run is finished: it is only evaluated again.
    before = (tmp_path / "run" / "history.csv").read_text()
    assert command(*train)[0] == 0
    assert (tmp_path / "run" / "history.csv").read_text() == before
    assert result(tmp_path / "run") == result(finished.path)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_signals(command, start, corpus, tmp_path, sent):
    """Real signals at some time during training, of a model with an LSTM."""
    train = ["train", corpus / "tiny.yaml", "--set", "training.epochs=30"]
    train += ["--set", "model.blocks=[{name: lstm, units: 4}, {name: moe, num_experts: 4, "]
    train[-1] += "hidden_units: 4, gate: {name: noisy_top_k, k: 2}}]"
    assert command(*train, "--run-dir", tmp_path / "whole")[0] == 0
    process = start(corpus, *map(str, train), "--run-dir", str(tmp_path / "run"))
    while not (tmp_path / "run" / "history.csv").exists() and process.poll() is None:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(sent)
    _, err = process.communicate()
    if sent == signal.SIGINT:
        assert process.returncode == 130, err
        assert "--resume" in err and "Traceback" not in err
    else:
        assert process.returncode == -signal.SIGKILL, err
    assert len(history(tmp_path / "run")) < 30
    assert command(*train, "--run-dir", tmp_path / "run", "--resume")[0] == 0
    same_state(tmp_path / "run", tmp_path / "whole")
    assert history(tmp_path / "run") == history(tmp_path / "whole")


def test_a_run_in_the_folder_is_not_overwritten(refused, finished):
    err = refused("train", "tiny.yaml", "--run-dir", finished.path)
    assert err.startswith(f"tfmoe: {finished.path} already has a run: resume it with --resume")


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("training.seed=1", "training.seed"),
        ("model.blocks[0].num_experts=8", "model.blocks[0].num_experts"),
        ("training.optimizer.schedule.name=warmup_inverse_sqrt", "training.optimizer.schedule."),
    ],
)
def test_another_config_cannot_resume(refused, finished, setting, key):
    err = refused("train", "tiny.yaml", "--run-dir", finished.path, "--resume", "--set", setting)
    assert f"was started with another config, which differs in {key}" in err


def test_fewer_epochs_than_are_finished(refused, finished):
    fewer = ["--set", "training.epochs=3"]
    err = refused("train", "tiny.yaml", "--run-dir", finished.path, "--resume", *fewer)
    assert "training.epochs is 3" in err and "has finished 4 epochs" in err


def test_changed_text(refused, finished, corpus, tmp_path, monkeypatch):
    for file in ("tiny.yaml", "train.txt", "valid.txt", "test.txt"):
        shutil.copy(corpus / file, tmp_path)
    text = (tmp_path / "train.txt").read_text()
    monkeypatch.chdir(tmp_path)
    for other, keys in (
        (text + "a a\n", "train.content, train.sentences, train.words"),
        (text.replace("a b c", "a c b"), "train.content"),
    ):
        (tmp_path / "train.txt").write_text(other)
        err = refused("train", "tiny.yaml", "--run-dir", finished.path, "--resume")
        assert f"the text has changed since {finished.path} was started: {keys} differ" in err


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.yaml", b"model: [", "config.yaml:1"),
        ("run.json", b"{", "run.json:1: not JSON"),
        ("run.json", b"[]", "run.json is incomplete: missing key"),
        ("run.json", None, "is not the folder of a run: it has no run.json"),
        ("vocabulary.txt", b"</S>\n<S>\n<UNK>\nc\n", "is not the vocabulary of this run"),
        ("history.csv", b"epoch,loss\n1,much\n", "history.csv:2: not a row of numbers"),
        ("history.csv", b"epoch,loss\n1,2,3\n", "history.csv:2: not a row of numbers"),
        ("history.csv", b"\xff\xfe", "history.csv:1: not a history"),
        ("checkpoints/checkpoint", None, "has no state to resume from"),
        ("checkpoints/checkpoint", b"\x00", "has no state to resume from"),
        ("checkpoints/last-16.index", None, "last-16 is damaged"),
        ("checkpoints/last-16.data-00000-of-00001", b"", "last-16 is damaged"),
    ],
)
def test_damaged_run(refused, finished, tmp_path, file, content, message):
    run = copy(finished, tmp_path / "run")
    (run / file).unlink()
    if content is not None:
        (run / file).write_bytes(content)
    assert message in refused("train", "tiny.yaml", "--run-dir", run, "--resume")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "broken.txt: no such file"),
        (b"", "broken.txt: the file is empty"),
        (b"\n \n", "broken.txt: the file has only blank lines"),
        (b"a b\nc \xff d\n", "broken.txt:2:3: byte 0xff is not valid UTF-8"),
    ],
)
@pytest.mark.parametrize("part", ["train", "test"])
def test_bad_text(refused, tmp_path, part, content, message):
    if content is not None:
        (tmp_path / "broken.txt").write_bytes(content)
    file, run = tmp_path / "broken.txt", tmp_path / "run"
    train = ["train", "tiny.yaml", "--run-dir", run]
    assert message in refused(*train, "--set", f"data.{part}={file}")
    assert not run.exists()


def test_other_errors(refused, tmp_path):
    train = ["train", "tiny.yaml", "--run-dir", tmp_path / "run"]
    assert "no file matches this glob" in refused(*train, "--set", "data.valid=no*.txt")
    assert "model.d_mode" in refused(*train, "--set", "model.d_mode=4")
    assert "no such file" in refused("train", "tin.yaml")
    assert "none.txt: no such file" in refused(*train, "--set", "data.vocabulary.file=none.txt")
    (tmp_path / "run").write_text("a file")
    assert str(tmp_path / "run") in refused(*train)


def test_loss_that_is_not_finite(refused, tmp_path):
    run = tmp_path / "run"
    err = refused(
        "train", "tiny.yaml", "--run-dir", run, "--set", "training.optimizer.learning_rate=1e30"
    )
    assert "try a lower learning rate" in err
    assert not list(run.glob("checkpoints/**/*.index"))


def test_neither_valid_nor_test_text(command, tmp_path):
    run = tmp_path / "run"
    settings = ["data.valid=[]", "data.test=[]", "training.epochs=1", "model.num_sampled=null"]
    flags = [flag for setting in settings for flag in ("--set", setting)]
    status, out, err = command("train", "tiny.yaml", "--run-dir", run, *flags)
    assert (status, err) == (0, "")
    assert "trained; no valid or test text to evaluate on" in out
    content = json.loads((run / "result.json").read_text())
    assert content["words_trained"] == 120
    assert "perplexity" not in content and "evaluated_on" not in content
    (row,) = history(run)
    assert not [name for name in row if name.startswith("val_")]
    folders = ("checkpoints", "checkpoints/best")
    latest = [tf.train.latest_checkpoint(str(run / folder)) for folder in folders]
    assert [pathlib.Path(path).name for path in latest] == ["last-4", "best-4"]


def test_differences():
    a = {"x": 1, "list": [{"y": 1}, 2], "gone": {"z": 1}, "same": [1]}
    b = {"x": 2, "list": [{"y": 2}, 2], "new": 1, "same": [1]}
    assert differences(a, b) == ["x", "list[0].y", "gone", "new"]
    assert differences({"list": [1]}, {"list": [1, 2]}) == ["list"]
    assert differences(a, a) == []
