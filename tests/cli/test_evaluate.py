"""`tfmoe evaluate` of a language model."""

import gzip
import json
import math
import shutil

import pytest

from tfmoe.config import dump_config, load_config
from tfmoe.training.run_directory import RunDirectory


def test_same_result_as_at_the_end_of_training(command, finished):
    status, out, _ = command("evaluate", finished.path, "--json")
    assert status == 0
    assert out.count("\n") == 1
    measured = json.loads(out)
    result = RunDirectory(finished.path).read_json(finished.path / "result.json")
    assert set(measured) == {
        "perplexity", "tokens", "oov", "loss", "moe_0_cv_importance", "moe_0_cv_load",
        "moe_0_max_over_mean_load", "moe_0_unused_experts", "moe_0_dropped",
        "moe_0_selected_per_token",
    }  # fmt: skip
    assert measured == {name: result[name] for name in measured}


def test_other_text(command, finished, tmp_path):
    """Two files of 5 and 4 words in 2 and 1 sentences. z, z and </S> have no id."""
    (tmp_path / "one.txt").write_text("a b z\r\n\r\nz c\r\n")
    with gzip.open(tmp_path / "two.txt.gz", "wt") as file:
        file.write("a b c </S>")  # no line end
    other = ["--data", f"{tmp_path}/*.txt", "--data", tmp_path / "two.txt.gz"]
    status, out, err = command("evaluate", finished.path, *other, "--json", "--weights", "last")
    assert status == 0
    measured = json.loads(out)
    assert (measured["tokens"], measured["oov"]) == (9 + 3, 3)
    assert measured["perplexity"] == pytest.approx(math.exp(measured["loss"]), rel=1e-12)
    # Keras' progress bar is on standard error.
    assert "perplexity" in err and "Traceback" not in err

    status, out, _ = command("evaluate", finished.path, *other, "--weights", "last")
    assert status == 0
    assert out == (
        f"perplexity {measured['perplexity']:.2f} ({measured['loss']:.4f} nats) per token on "
        "12 tokens (ends of sentences included), 3 of them out of vocabulary\n"
    )


def test_a_sentence_longer_than_a_row(command, finished, tmp_path):
    """Every word is predicted once: 20 words are three rows of at most 8."""
    (tmp_path / "long.txt").write_text("a b c d " * 5 + "\n")
    status, out, _ = command("evaluate", finished.path, "--data", tmp_path / "long.txt", "--json")
    assert status == 0
    assert json.loads(out)["tokens"] == 21


def test_a_moved_run(command, finished, tmp_path):
    shutil.copytree(finished.path, tmp_path / "elsewhere" / "run")
    status, out, _ = command("evaluate", tmp_path / "elsewhere" / "run", "--json")
    result = RunDirectory(finished.path).read_json(finished.path / "result.json")
    assert (status, json.loads(out)["perplexity"]) == (0, result["perplexity"])


@pytest.mark.parametrize("name", ["evaluate", "translate", "inspect", "export"])
def test_weights_that_do_not_exist(command, name):
    status, _, err = command(name, "runs/none", *["out"] * (name == "export"), "--weights", "x")
    assert status == 2 and "'--weights'" in err and "'x' is not one of 'best', 'last'" in err


def test_errors(refused, finished, tmp_path):
    run = finished.path
    assert "is not the folder of a run: it has no config.yaml" in refused("evaluate", tmp_path)
    assert "no file matches this glob" in refused("evaluate", run, "--data", "no*")
    (tmp_path / "empty.txt").touch()
    assert "empty.txt: the file is empty" in refused(
        "evaluate", run, "--data", tmp_path / "empty.txt"
    )
    (tmp_path / "bytes.txt").write_bytes(b"a\n\xe4\n")
    assert "bytes.txt:2:1: byte 0xe4" in refused("evaluate", run, "--data", tmp_path / "bytes.txt")


def set_key(setting):
    """A function that changes a key of a run's config.yaml."""
    return lambda run: run.config.write_text(dump_config(load_config(run.config, [setting])))


def empty_data(run):
    (run.checkpoints / "best" / "best-16.data-00000-of-00001").write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: shutil.rmtree(run.checkpoints), "has no 'best' weights yet"),
        (lambda run: run.vocabulary.write_text("</S>\n<S>\n<UNK>\na\n"), "is not the vocabulary"),
        (lambda run: run.vocabulary.unlink(), "it has no vocabulary.txt"),
        (lambda run: run.facts.write_text("{}"), "run.json is incomplete: missing key"),
        (lambda run: run.config.write_text("model: 3\n"), "config.yaml:1: model: "),
        (empty_data, "best-16 is damaged"),
        (set_key("model.blocks[0].hidden_units=5"), "shape (4, 4, 5) in the model and shape (4, 4"),
        (set_key("data.test=nowhere.txt"), "nowhere.txt: no such file"),
        (set_key("data.test=[]"), "has no test text (data.test in its config): give one with"),
    ],
)
def test_damaged_run(command, finished, tmp_path, damage, message):
    run = RunDirectory(shutil.copytree(finished.path, tmp_path / "run"))
    damage(run)
    status, out, err = command("evaluate", run.path)
    assert (status, out) == (2, "")
    assert message in err and "Traceback" not in err
