"""`tfmoe configs`, and commands that do not load TensorFlow."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

import tfmoe
from tfmoe.cli import main
from tfmoe.config import load_config


def run(capsys, *arguments):
    """`(exit status, standard output, standard error)` of a command."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return (caught.value.code or 0, *capsys.readouterr())


def test_json(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, "configs", "--json")
    assert (status, err) == (0, "")
    listed = json.loads(out)
    (moe,) = [item for item in listed if item["row"] == "MoE-256"]
    assert moe["name"] == "lm1b/moe-256" and moe["table"] == "Table 7"
    assert moe["path"].endswith("configs/lm1b/moe-256.yaml")
    assert load_config(moe["path"]) == load_config(moe["name"])
    (largest,) = [item for item in listed if item["row"] == "MoE-131072-h"]
    assert (largest["name"], largest["table"]) == ("news100b/moe-131072-h", "Table 8")
    assert sum(item["table"] == "Table 6" for item in listed) == 6


def test_table(capsys):
    status, out, _ = run(capsys, "configs")
    lines = [line.split(maxsplit=1) for line in out.splitlines()]
    assert status == 0
    assert ["lm1b/moe-256", "Table 7  MoE-256"] in lines
    assert ["demo/language_model", "-        -"] in lines


def test_keys(capsys):
    status, out, err = run(capsys, "configs", "--keys", "model.blocks[0].gate.importance_weight")
    assert (status, err) == (0, "")
    assert "model.blocks[].gate (name: noisy_top_k)" in out
    assert "importance_weight: 0.0  # a number of at least 0" in out and "eq 7" in out
    assert "encoder" not in out and "load_weight" not in out


def test_keys_as_json(capsys):
    status, out, _ = run(capsys, "configs", "--keys", "training", "--json")
    keys = {each["key"]: each for each in json.loads(out) if each["name"] in (None, "adam")}
    assert status == 0
    assert keys["training.dtype_policy"]["choices"] == ["float32", "mixed_bfloat16"]
    assert keys["training.optimizer.learning_rate"]["default"] == 0.001
    assert keys["training.optimizer"]["default"]["name"] == "adam"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["--keys", "model.blokcs"], "model.blokcs is no key, section or name"),
        (["--keys", "model.blokcs"], "did you mean model.blocks?"),
        (["demo"], "demo is given without --keys"),
    ],
)
def test_keys_that_do_not_exist(capsys, command, message):
    status, _, err = run(capsys, "configs", *command)
    assert status == 2 and message in err


@pytest.mark.parametrize(
    "command",
    [["configs"], ["--help"], ["describe", "--help"], ["tables", "--help"], ["--version"]],
)
def test_without_tensorflow(command):
    script = (
        "import sys\n"
        "from tfmoe.cli import main\n"
        "try:\n"
        f"    main({command!r})\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules\n"
    )
    root = pathlib.Path(tfmoe.__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"tfmoe {tfmoe.__version__}\n", "")


def test_help_has_examples(capsys):
    status, out, _ = run(capsys, "--help")
    assert status == 0
    assert "tfmoe describe demo/language_model" in out
    for command in ("configs", "describe", "tables"):
        _, out, _ = run(capsys, command, "--help")
        assert "Examples:" in out and f"tfmoe {command}" in out


def test_unknown_command(capsys):
    status, out, err = run(capsys, "confgis")
    assert (status, out) == (2, "")
    assert "confgis" in err
