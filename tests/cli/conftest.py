"""Fixtures: a tiny corpus, a run trained on it, and functions that run commands."""

import contextlib
import fcntl
import io
import json
import logging
import os
import pathlib
import re
import subprocess
import sys
from typing import NamedTuple

import pytest

import tfmoe
from tfmoe.cli import main

# 30 sentences of 3 words; the vocabulary of 8 has the five words a to e.
TRAIN = "a b c\n" * 12 + "b c d\n" * 8 + "c d e\n" * 6 + "d e rare\n" * 4
VALID = "a b c\nb c d\nd e f\n"
TEST = "a b c d\nx a\n\nc y\n"  # 8 words, of which x and y are unknown, in 3 sentences
CONFIG = """\
model:
  name: language_model
  d_model: 4
  dropout: 0.1
  num_sampled: 4
  blocks:
    - name: moe
      num_experts: 4
      hidden_units: 4
      gate: {name: noisy_top_k, k: 2, importance_weight: 0.1, load_weight: 0.1}
data:
  name: text
  train: train.txt
  valid: valid.txt
  test: test.txt
  vocabulary: {size: 8}
  batch_tokens: 64
  max_length: 8
training: {epochs: 4, checkpoint_every_steps: 3}
"""


class Finished(NamedTuple):
    """A finished run, and the output of its command."""

    path: pathlib.Path
    out: str
    err: str


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A function that creates a folder once for all processes of the session. It returns the path
    of the folder `name`, and the result of `make(path)`, which is stored in `name.json`.
    """
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def shared(name, make):
        path, result = base / name, base / f"{name}.json"
        with open(base / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not result.exists():
                result.write_text(json.dumps(make(path)))
        return path, json.loads(result.read_text())

    return shared


@pytest.fixture(scope="session")
def corpus(shared):
    """A folder with train.txt, valid.txt, test.txt and tiny.yaml. Tests must not change it."""

    def make(folder):
        folder.mkdir()
        (folder / "train.txt").write_text(TRAIN)
        (folder / "valid.txt").write_text(VALID)
        (folder / "test.txt").write_text(TEST)
        (folder / "tiny.yaml").write_text(CONFIG)

    return shared("corpus", make)[0]


@pytest.fixture(scope="session")
def finished(corpus, shared):
    """A `Finished` run of `tfmoe train tiny.yaml` in a subprocess. Tests must not change it."""

    def make(path):
        process = subprocess.run(
            [*TFMOE, "train", "tiny.yaml", "--run-dir", str(path)],
            cwd=corpus,
            env=environment(path.with_name("cache")),
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, process.stderr
        return process.stdout, process.stderr

    path, output = shared("finished", make)
    return Finished(path, *output)


@pytest.fixture(scope="session")
def train():
    """A function that trains a config in its folder, in this process, and returns a `Finished`."""

    def train(config, path):
        out, err = io.StringIO(), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as caught,
        ):
            patch.chdir(config.parent)
            patch.setenv("TFMOE_CACHE", str(path.with_name("cache")))
            main(["train", config.name, "--run-dir", str(path)])
        assert not caught.value.code, err.getvalue()
        return Finished(path, out.getvalue(), err.getvalue())

    return train


TFMOE = [sys.executable, "-m", "tfmoe"]


def environment(cache):
    """The environment of a subprocess that runs this tfmoe, with generated text in `cache`."""
    root = str(pathlib.Path(tfmoe.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": root, "TFMOE_CACHE": str(cache)}


@pytest.fixture(scope="session")
def start():
    """A function that starts a `tfmoe` process in a folder."""

    def start(folder, *arguments):
        return subprocess.Popen(
            [*TFMOE, *arguments],
            cwd=folder,
            env=environment(folder.with_name("cache")),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def command(corpus, capfd, caplog, monkeypatch, tmp_path):
    """A function that runs a `tfmoe` command in this process and in the folder of the corpus, and
    returns `(exit status, standard output, standard error)`.
    """
    monkeypatch.chdir(corpus)
    monkeypatch.setenv("TFMOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TFMOE_DEBUG", raising=False)
    # TensorFlow warns if a process traces many models.
    caplog.set_level(logging.ERROR, logger="tensorflow")

    def command(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        # TensorFlow's C++ code logs messages if a test imported it before the command.
        err = re.sub(r"(?m)^[IWE]\d{4} \d\d:.*\n", "", err)
        return caught.value.code or 0, out, err

    return command


@pytest.fixture
def refused(command):
    """A function that runs a command which must fail before training, with exit status 2, one line
    on standard error and no traceback. Returns that line.
    """

    def refused(*arguments):
        status, _, err = command(*arguments)
        assert status == 2, err
        assert err.count("\n") == 1 and "Traceback" not in err, err
        return err

    return refused
