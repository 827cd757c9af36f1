"""`tfmoe upcycle`, and training after it."""

import json
import time

import pytest

from tfmoe.training.run_directory import RunDirectory

DENSE = """\
model:
  name: language_model
  d_model: 4
  blocks:
    - {name: feed_forward, hidden_units: 8, norm: rms}
data:
  name: text
  train: train.txt
  valid: valid.txt
  test: test.txt
  vocabulary: {size: 8}
  batch_tokens: 16
  max_length: 8
training: {epochs: 2, steps_per_epoch: 20, optimizer: {name: adam, learning_rate: 0.01}}
"""


def test_errors_name_the_option(refused, finished, tmp_path):
    err = refused("upcycle", finished.path, tmp_path / "new", "--experts", "4")
    assert "has no feed_forward block to convert: its blocks are moe (it is a mixture" in err
    err = refused("upcycle", finished.path, tmp_path, "--experts", "4")
    assert "already exists: choose a new folder" in err
    err = refused("upcycle", finished.path, tmp_path / "new", "--experts", "2", "--k", "3")
    assert "--k must be from 1 to --experts 2, got 3" in err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def dense(corpus, train, tmp_path_factory):
    """A dense run of two epochs."""
    config = corpus / "dense.yaml"
    config.write_text(DENSE)
    return train(config, tmp_path_factory.mktemp("dense") / "run").path


@pytest.mark.slow
def test_the_new_run_trains_on(command, dense, tmp_path):
    out = tmp_path / "mixture"

    def run(*arguments):
        status, text, err = command(*arguments)
        assert status == 0, err
        return text

    text = run("upcycle", dense, out, "--experts", "4", "--json", "--set", "training.epochs=4")
    result = json.loads(text)
    assert result["step"] == 40 and result["epochs"] == 4
    before, after = (json.loads(run("evaluate", path, "--json")) for path in (dense, out))
    assert after["perplexity"] == pytest.approx(before["perplexity"], rel=1e-6)
    run("train", out / "config.yaml", "--run-dir", out, "--resume")
    check_history(RunDirectory(out).read_history())
    run("export", out, tmp_path / "exported")
    assert "moe_0" in run("inspect", out, "--shuffles", "2")


@pytest.mark.slow
def test_the_new_run_trains_on_two_devices(command, start, corpus, dense, tmp_path):
    out = tmp_path / "mixture"
    options = ["--set", "training.epochs=4", "--set", "distribute={name: local, devices: 2}"]
    status, _, err = command("upcycle", dense, out, "--experts", "4", *options)
    assert status == 0, err
    process = start(corpus, "train", str(out / "config.yaml"), "--run-dir", str(out), "--resume")
    _, err = process.communicate()
    assert process.returncode == 0, err
    check_history(RunDirectory(out).read_history())


def check_history(rows):
    """Asserts that the epochs after upcycling, 3 and 4, improve the model."""
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert rows[3]["val_perplexity"] < rows[1]["val_perplexity"]
    assert rows[3]["loss"] < rows[1]["loss"] and "moe_0_cv_load" in rows[3]


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [3, 5])
def test_a_killed_command_leaves_nothing(start, corpus, dense, tmp_path, seconds):
    process = start(corpus, "upcycle", str(dense), str(tmp_path / "out" / "mixture"))
    time.sleep(seconds)
    process.kill()
    process.communicate()
    out = tmp_path / "out"
    if process.returncode:  # killed before it had finished
        assert not (out / "mixture").exists()
    process = start(corpus, "upcycle", str(dense), str(out / "next"))
    _, err = process.communicate()
    assert process.returncode == 0, err
