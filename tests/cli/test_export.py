"""`tfmoe export`."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tfmoe.serving.saved_model import sha256
from tfmoe.tasks import load_run, task_of
from tfmoe.tasks.export_saved_model import example_command
from tfmoe.training.run_directory import RunDirectory

# A server with TensorFlow and without tfmoe.
SERVER = """
import json, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tfmoe", "data_pipelines"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocker())
import tensorflow as tf
signatures = tf.saved_model.load(sys.argv[1]).signatures
outputs = signatures["score"](sentences=tf.constant(json.loads(sys.argv[2])))
outputs = {name: value.numpy() for name, value in outputs.items()}
outputs["tokens"] = outputs["tokens"].astype("U")
print(json.dumps({name: value.tolist() for name, value in outputs.items()}))
assert not {"tfmoe", "data_pipelines"} & set(sys.modules)
"""
TEST = ["a b c d", "x a", "c y"]  # the sentences of `finished`'s test text


@pytest.fixture(scope="module")
def exported(start, finished, tmp_path_factory):
    """`(path of version 1, standard output, standard error)`."""
    out = tmp_path_factory.mktemp("exported") / "tiny"
    process = start(out.parent, "export", str(finished.path), str(out), "--top", "4")
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    return out / "1", stdout, stderr


def test_score_without_tfmoe_equals_evaluate(exported, finished, tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", SERVER, str(exported[0]), json.dumps(TEST)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert "custom gradients" not in process.stderr
    outputs = json.loads(process.stdout)
    result = RunDirectory(finished.path).read_json(finished.path / "result.json")
    assert outputs["token_count"] == [5, 3, 3] and result["tokens"] == 11
    perplexity = np.exp(-sum(outputs["log_probability"]) / 11)
    assert perplexity == pytest.approx(result["perplexity"], rel=1e-5)
    assert outputs["tokens"][1] == ["<UNK>", "a", "</S>", "", ""]


def test_manifest(exported, finished):
    path, _, _ = exported
    manifest = json.loads((path / "manifest.json").read_text())
    run = RunDirectory(finished.path)
    assert manifest["config"] == run.config.read_text()
    assert manifest["metrics"] == {"of_weights": "best", **run.read_json(run.result)}
    assert manifest["tokenization"] == "words" and manifest["serving_default"] == "score"
    assert manifest["weights"]["which"] == "best" and manifest["weights"]["type"] == "float32"
    assert (run.checkpoints / "best" / f"best-{manifest['weights']['step']}.index").exists()
    assert {"tfmoe", "tensorflow", "keras"} <= set(manifest["made_with"])
    names = ["score", "next_token", "generate", "route"]
    names += ["score_ids", "next_token_ids", "generate_ids"]
    assert list(manifest["signatures"]) == names
    assert manifest["vocabulary"]["file"] == "vocabulary.txt"
    assert sha256(path / "vocabulary.txt") == sha256(run.vocabulary)
    assert manifest["files"]["vocabulary.txt"] == sha256(run.vocabulary)
    assert manifest["signatures"]["next_token"]["outputs"] == {
        "words": "string [?, 4]", "probabilities": "float32 [?, 4]",
    }  # fmt: skip
    assert manifest["files"]["saved_model.pb"] == sha256(path / "saved_model.pb")


def test_the_printed_command_works(exported):
    path, out, _ = exported
    assert out.startswith(
        f"{path}: score, next_token, generate, route, score_ids, next_token_ids, "
    )
    command = out.splitlines()[-1].strip()
    assert command.startswith("saved_model_cli run --dir ")
    program = f"{sys.executable} -m tensorflow.python.tools.saved_model_cli"
    command = command.replace("saved_model_cli", program, 1)
    process = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "Result for output key log_probability" in process.stdout


@pytest.mark.slow
def test_the_command_with_tokenization(exported, finished):
    config, vocabulary, model = load_run(finished.path)
    text_model = task_of(config).exported(vocabulary, model, tokenization="text")
    command = example_command(exported[0], text_model)
    assert command.startswith('python -c "import tensorflow_text; ')
    command = command.replace("python", sys.executable, 1)
    process = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "Result for output key log_probability" in process.stdout


@pytest.mark.slow
def test_half_size_and_the_next_version(command, finished, tmp_path):
    out = tmp_path / "out"
    (out / "6").mkdir(parents=True)
    arguments = ("export", finished.path, out, "--half", "--weights", "last")
    status, stdout, err = command(*arguments, "--tokenization", "text")
    assert status == 0, err
    assert stdout.startswith(f"{out / '7'}: ")
    assert "with bfloat16 weights (" in err
    weights = json.loads((out / "7" / "manifest.json").read_text())["weights"]
    result = RunDirectory(finished.path).read_json(finished.path / "result.json")
    change = weights["change"]["perplexity"]
    assert weights["type"] == "bfloat16" and weights["which"] == "last"
    assert change["float32"] != change["bfloat16"]
    assert change["bfloat16"] == pytest.approx(result["perplexity"], rel=0.1)
    assert sorted(path.name for path in out.iterdir()) == ["6", "7"]


@pytest.mark.slow
def test_int8(command, finished, tmp_path):
    """The matrices of this model are so small that they keep their type."""
    status, _, err = command("export", finished.path, tmp_path / "out", "--int8")
    assert status == 0, err
    assert "with int8 weights (+0.0000)" in err
    weights = json.loads((tmp_path / "out" / "1" / "manifest.json").read_text())["weights"]
    change = weights["change"]["perplexity"]
    assert weights["type"] == "int8" and change["float32"] == change["int8"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top", "0"], "--top must be 1 or more, got 0"),
        (["--version", "0"], "the version must be from 1 to 2^63 - 1, got 0"),
        (["--version", 2**63], "the version must be from 1 to 2^63 - 1, got 9223372036854775808"),
        (["--beam", "1001"], "--beam must be from 1 to 1,000, got 1,001"),
        (["--nbest", "3", "--beam", "2"], "--beam must be at least --nbest 3, got 2"),
        (["--half", "--int8"], "--half and --int8 exclude each other: give one of them"),
        (["--tokenization", "letters"], "--tokenization must be text or words, got 'letters'"),
        (["--nbest", "2"], "--nbest 2: "),
        (["--format", "huggingface"], "model: final_norm must be 'rms' in a Hugging Face checkpoi"),
        (["--format", "huggingface", "--top", "3"], "--top must be left out with --format hugg"),
        (["--format", "onxx"], "'onxx' is not one of 'savedmodel', 'onnx', 'litert', 'tfjs', 'hug"),
        (["--format", "tfjs", "--half"], "--half must be left out with --format tfjs, got True"),
    ],
)
def test_errors(command, finished, tmp_path, arguments, message):
    status, _, err = command("export", finished.path, tmp_path / "out", *arguments)
    assert status == 2 and "Traceback" not in err
    assert message in err
    assert not (tmp_path / "out").exists()


def test_an_existing_version(refused, finished, exported):
    path, _, _ = exported
    before = sha256(path / "saved_model.pb")
    message = refused("export", finished.path, path.parent, "--version", 1)
    assert "already exists and is not overwritten; the next free version is 2" in message
    assert sha256(path / "saved_model.pb") == before


def test_an_unfinished_run(command, finished, tmp_path):
    _, _, err = command("export", tmp_path, tmp_path / "out")
    assert "is not the folder of a run: it has no config.yaml" in err
    run = RunDirectory(shutil.copytree(finished.path, tmp_path / "run"))
    shutil.rmtree(run.checkpoints)
    _, _, err = command("export", run.path, tmp_path / "out")
    assert "has no 'best' weights yet" in err


def test_help(command):
    _, out, _ = command("export", "--help")
    assert (
        "\\b" not in out and "\n    tfmoe export runs/language_model exported/small --half" in out
    )
