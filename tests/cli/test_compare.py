"""`tfmoe compare`."""

import csv
import json
import shutil

import pytest
from forked_commands import run

from tfmoe.training.run_directory import RunDirectory

# 2·4·4·2 + 2·4·4 = 96 multiply-adds for NoisyTopK, 2·4·10 + 4·4 = 96 for Switch, 2·4·12 for dense.
COMPARISON = """\
base: tiny.yaml
seeds: [0, 1]
tolerance: 0.0
systems:
  NoisyTopK: {}
  Switch: {mixtures: {hidden_units: 10, gate: {name: switch}}}
  dense: {model: {blocks: [{name: feed_forward, hidden_units: 12}]}}
"""
FILES = {"comparison.csv", "comparison.md", "comparison.json", "comparison.png"}
OF_MIXTURES = ("cv_importance", "cv_load", "max_over_mean_load", "selected_per_token", "dropped")


@pytest.fixture
def folder(corpus, tmp_path, command, monkeypatch):
    """The corpus, and the comparison pair.yaml."""
    for file in corpus.iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "pair.yaml").write_text(COMPARISON)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_run_is_finished_and_one_is_trained(command, refused, folder, finished):
    """The run of `tfmoe train tiny.yaml` is that of NoisyTopK with seed 0."""
    out_folder = folder / "out"
    shutil.copytree(finished.path, out_folder / "NoisyTopK" / "seed-0")
    compare = ["compare", "pair.yaml", "--out", "out", "--only", "dense"]
    status, out, err = command(*compare, "--seeds", "1")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[:3] == [
        "3 runs of 3 systems, 1 of them finished",
        "multiply-adds per word: 96 to 96",
        "",
    ]
    assert "== 1 of 1: dense, seed 0 ==" in lines
    assert [line for line in lines if line[:6] == "Epoch "] == [f"Epoch {i}/4" for i in range(1, 5)]
    assert [line[:19] for line in lines if line.startswith("[")] == ["[1/1] dense, seed 0"]
    assert {path.name for path in out_folder.iterdir()} == {*FILES, "NoisyTopK", "dense"}
    check_files(out_folder, lines)

    before = {file: (out_folder / file).read_bytes() for file in FILES}
    status, again, err = command(*compare, "--seeds", "1")
    assert (status, err) == (0, "")
    assert "2 of them finished" in again and "Epoch" not in again
    assert again.splitlines()[-12:] == lines[-12:]
    assert {file: (out_folder / file).read_bytes() for file in FILES} == before
    err = refused(*compare, "--set", "training.optimizer.learning_rate=1e-4")
    assert "NoisyTopK/seed-0 was started with another config, which differs in training" in err


def check_files(folder, lines):
    """Checks that the files have the results of the two runs."""
    with open(folder / "comparison.csv", newline="") as file:
        rows = {row["system"]: row for row in csv.DictReader(file)}
    summary = json.loads((folder / "comparison.json").read_text())
    systems = summary["systems"]
    assert (summary["reference"], list(rows), list(systems)) == (
        "NoisyTopK", ["NoisyTopK", "dense"], ["NoisyTopK", "dense"],
    )  # fmt: skip
    for name, system in systems.items():
        run, row = RunDirectory(folder / name / "seed-0"), rows[name]
        result, last = run.read_result(), run.read_history()[-1]
        assert (system["seeds"], row["seed"], system["ops_per_timestep"]) == ([0], "0", 96)
        assert system["perplexity"] == {"mean": result["perplexity"], "deviation": None}
        assert float(row["perplexity"]) == result["perplexity"]
        over = result["perplexity"] / systems["NoisyTopK"]["perplexity"]["mean"] - 1
        assert system["perplexity_over_reference"]["mean"] == pytest.approx(over)
        for part, logs in (("train", last), ("test", result)):
            for metric in OF_MIXTURES:
                value = logs.get(f"moe_0_{metric}")
                assert system[f"{part}_{metric}"]["mean"] == value
                assert row[f"{part}_{metric}"] == ("" if value is None else str(value))
    assert systems["NoisyTopK"]["train_selected_per_token"]["mean"] == 2
    # `train` does not measure the time of a step.
    assert systems["NoisyTopK"]["seconds_per_step"]["mean"] is None
    times = [systems["dense"][f"{kind}seconds_per_step"]["mean"] for kind in ("", "processor_")]
    assert all(0 < time < 10 for time in times)
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    table = (folder / "comparison.md").read_text()
    assert table.startswith("# pair\n\nPerplexity, and load of the experts")
    printed = next(line.split() for line in lines if line.startswith("dense "))
    assert f"| {' | '.join(printed)} |" in table.splitlines()
    assert printed[3:] == ["-"] * 6


@pytest.mark.parametrize(
    ("old", "new", "arguments", "message"),
    [
        ("units: 10", "units: 9", [],
         "pair.yaml:6: systems.Switch: its 88 multiply-adds per word are 8.3% fewer than the 96 of "
         "NoisyTopK, but tolerance is 0.0%: change its size"),
        ("dense: {", "dense: {data: {max_length: 9}, ", [],
         "pair.yaml:7: systems.dense: data.max_length must be that of NoisyTopK"),
        ("dense: {", "dense: {training: {epochs: 3}, ", [],
         "pair.yaml:7: systems.dense: training.epochs must be that of NoisyTopK"),
        ("name: switch", "name: swich", [],
         "pair.yaml:6 (system Switch): model.blocks[0].gate.name: must be one of"),
        ("", "", ["--only", "switch"],
         "--only must be one of the systems NoisyTopK, Switch, dense, got switch"),
        ("", "", ["--seeds", "0"], "--seeds must be from 1 to 1,000, got 0"),
        ("", "", ["--set", "training.seed=3"], "choose the seeds of a comparison with --seeds"),
        ("", "", ["--set", "data.test=[]"], "data.test: is empty in NoisyTopK"),
    ],
)  # fmt: skip
def test_errors_before_any_training(refused, folder, old, new, arguments, message):
    (folder / "pair.yaml").write_text(COMPARISON.replace(old, new))
    assert message in refused("compare", "pair.yaml", *arguments)
    assert not (folder / "runs").exists()


def test_translation_models_are_refused(refused, folder):
    (folder / "two.yaml").write_text("base: demo/translation\nsystems: {a: {}, b: {}}\n")
    assert "a is a translation model: only language models" in refused("compare", "two.yaml")


@pytest.mark.slow
def test_a_run_that_diverges_is_left_out(command, folder):
    """The learning rate is too large for dense."""
    optimizer = "{name: sgd, learning_rate: 1e30}"
    text = COMPARISON.replace("dense: {", f"dense: {{training: {{optimizer: {optimizer}}}, ")
    (folder / "pair.yaml").write_text(text)
    compare = ["compare", "pair.yaml", "--out", "out", "--seeds", "1"]
    status, out, err = command(*compare, "--only", "dense")
    assert (status, err.count("\n")) == (2, 1)
    assert "the training of all systems diverged" in err
    status, out, err = command(*compare, "--only", "dense", "--only", "Switch")
    assert (status, err) == (0, "")
    assert "[2/2] dense, seed 0: left out: loss became " in out
    assert list(json.loads((folder / "out" / "comparison.json").read_text())["systems"]) == [
        "Switch"
    ]


@pytest.mark.slow
def test_killed_at_any_time_and_repeated(folder, tmp_path_factory):
    """The results equal those of a command that was not killed, except for times."""
    within = tmp_path_factory.mktemp("compare")
    (folder / "pair.yaml").write_text(COMPARISON.replace("  Switch", "  # Switch"))

    def compare(out, name, **kill):
        output = within / name
        output.mkdir()
        status, seconds = run(
            ["compare", "pair.yaml", "--seeds", "1", "--out", within / out],
            folder, output, within, **kill,
        )  # fmt: skip
        return status, seconds, (output / "err").read_text()

    status, seconds, err = compare("whole", "first")
    assert status == 0, err
    for index in range(4):
        out = f"killed-{index}"
        kill = {"seconds": seconds * (index + 0.5) / 4}
        status, _, err = compare(out, f"{out}-first", **kill)
        assert status in (0, -9), err
        status, _, err = compare(out, f"{out}-again")
        assert status == 0, err
        assert results(within / out) == results(within / "whole")


def results(out):
    """The rows of comparison.csv without times."""
    with open(out / "comparison.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: row[key] for key in row if "seconds" not in key} for row in rows]
