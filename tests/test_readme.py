"""What the README shows must run as printed."""

import pathlib
import re
import subprocess
import sys

import keras
import numpy as np

from tfmoe.layers import MoE

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_the_first_script_runs_as_printed_and_learns():
    script = blocks("python")[0]
    assert "MoE(" in script and len(script.splitlines()) <= 25
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd="/", timeout=300
    )
    assert run.returncode == 0, run.stderr
    first, last = map(float, re.search(r"^loss (\S+) -> (\S+)$", run.stdout, re.M).groups())
    assert last < 0.5 * first
    assert re.search(r"^experts unused 0\.0$", run.stdout, re.M)


def test_the_gate_of_ones_own_trains():
    names = {"keras": keras, "MoE": MoE}
    exec(blocks("python")[1], names)
    names["model"].compile("sgd", "mse")
    x = np.random.default_rng(0).standard_normal((8, 4)).astype("float32")
    history = names["model"].fit(x, x, verbose=0, epochs=2).history
    assert history["loss"][1] < history["loss"][0]


def test_commands_exist():
    from tfmoe.cli import app

    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    shown = re.findall(r"^tfmoe ([a-z]+)", "\n".join(blocks("sh")), re.MULTILINE)
    assert shown, "the README shows the commands"
    assert set(shown) <= known


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    shown = re.findall(r"^make ([a-z-]+)", "\n".join(blocks("sh")), re.MULTILINE)
    assert shown and set(shown) <= targets


def test_paths_exist():
    shown = re.findall(
        r"`((?:tfmoe|data_pipelines|configs|benchmarks|tests|docs)/[\w./-]*)`", README
    )
    missing = [path for path in shown if not (ROOT / path).exists()]
    assert not missing
