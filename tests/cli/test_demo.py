import json
import math
import re

import pytest

from tfmoe.config import dump_config, load_config
from tfmoe.tasks.demo import GRAMMARS, MODELS, clear_old_runs
from tfmoe.training.run_directory import RunDirectory

TINY = [
    "data={name: text, train: train.txt, valid: valid.txt, test: test.txt, batch_tokens: 64, "
    "max_length: 8}",
    "model.d_model=4",
    "model.num_sampled=null",
    "model.blocks=[{name: moe, num_experts: 4, hidden_units: 4, "
    "gate: {name: noisy_top_k, k: 2, importance_weight: 0.0, load_weight: 0.0}}]",
    "training.epochs=2",
    "training.steps_per_epoch=2",
]
TINY_GRAMMARS = """\
base: demo/grammars
model:
  d_model: 4
  blocks: [{name: BLOCK, hidden_units: 4}]
data: {grammars: 2, symbols: 4, length: 5, train_sentences: 50, valid_sentences: 5,
  test_sentences: 7, batch_tokens: 64}
training: {epochs: 1, steps_per_epoch: 2}
"""
FIGURES = {"perplexity", "ops_per_timestep", "parameters", "seconds"}


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """The arguments of a tiny demo. --set makes its two models of the text one and the same."""
    for folder, block in zip(GRAMMARS, ("moe, num_experts: 4", "feed_forward"), strict=True):
        path = tmp_path / f"{block[:3]}.yaml"
        path.write_text(TINY_GRAMMARS.replace("BLOCK", block))
        monkeypatch.setitem(GRAMMARS, folder, str(path))
    return ["demo", "--run-dir", tmp_path / "demo", *(f for s in TINY for f in ("--set", s))]


def test_stopped_and_finished(command, demo, tmp_path, monkeypatch):
    folder = tmp_path / "demo"
    with monkeypatch.context() as patch:
        patch.setattr("tfmoe.tasks.demo_report.curves_side_by_side", _interrupt)
        status, out, err = command(*demo)
    assert (status, err) == (130, "\ntfmoe: stopped; repeat the command to resume\n")
    check_first_run(out)
    results = [(folder / name / "result.json").stat().st_mtime_ns for name in MODELS]
    assert not (folder / "summary.json").exists()
    (folder / "dense" / "result.json").unlink()  # as if it had been stopped before its end

    status, out, err = command(*demo)
    assert (status, err) == (0, "")
    assert "Epoch" not in out  # all were trained already
    assert results[0] < (folder / "moe" / "result.json").stat().st_mtime_ns
    summary = json.loads((folder / "summary.json").read_text())
    check_summary(summary, folder)
    png = (folder / "curves.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and len(png) > 10_000
    lines = out.splitlines()
    head = lines.index("Use of the 4 experts of moe_0 on the test text; 0 unused")
    rows = [line.split() for line in lines[head + 2 : head + 6]]
    loads = [float(row[1]) for row in rows]
    assert sorted(row[0] for row in rows) == ["0", "1", "2", "3"]
    assert loads == sorted(loads, reverse=True)
    assert sum(loads) == pytest.approx(4, abs=0.02)  # loads over their mean, in hundredths
    row = [line.split() for line in lines if line.startswith("dense ")][-1]
    assert row[2:4] == ["96", str(4 * 32 + 2 * 16 + 2 * 4 * 9 + 9)]  # 6 words, 3 special ones
    assert f"{summary['moe']['perplexity']:.2f}" in out
    (row,) = [line.split() for line in lines if line.startswith("Kneser-Ney 5-gram")]
    ngrams = summary["kneser_ney"]
    assert row[2:5] == [f"{ngrams['perplexity']:.2f}", "5", str(ngrams["parameters"])]
    assert f"Summary: {folder}/summary.json" in lines[-1]


def check_first_run(out):
    """The stages in their order; the first result before the second pair; the time left."""
    lines = out.splitlines()
    stages = [line for line in lines if line.startswith("== ")]
    assert [line[3:9] for line in stages] == [f"{n} of 7" for n in range(1, 8)]
    assert stages[0] == "== 1 of 7: mixture of experts on a synthetic language =="
    times = r"\d+:\d\d so far, about \d+:\d\d left"
    assert all(re.search(f"; {times} ==$", line) for line in stages[1:])
    epochs = [line for line in lines if re.fullmatch(f"all stages: {times}", line)]
    assert len(epochs) == 1 + 1 + 2 + 2
    first = next(i for i, line in enumerate(lines) if line.startswith("First result: "))
    assert lines.index(stages[1]) < first < lines.index(stages[2])
    assert "a language of 2 grammars over the same 4 words" in lines[first]
    assert lines[first + 3].startswith("mixture of experts ")
    assert lines[first + 4].startswith("dense ")


def check_summary(summary, folder):
    assert set(summary) == {"kneser_ney", "moe", "dense", "tokens", "test_tokens", "grammars"}
    for name in ("kneser_ney", *MODELS):
        assert set(summary[name]) == FIGURES
    for name in MODELS:
        history = RunDirectory(folder / name).read_history()
        assert summary["tokens"] == sum(row["words"] for row in history)
    assert summary["test_tokens"] == 11
    grammars = summary["grammars"]
    assert set(grammars) == {"perplexity", "moe", "dense", "tokens", "test_tokens"}
    assert set(grammars["moe"]) == set(grammars["dense"]) == FIGURES
    assert grammars["test_tokens"] == 7 * 8  # two markers, five symbols, the end
    # A sentence: one of 2 grammars, one of 4 words, then 4 times one of two successors with the
    # probabilities 0.7311 and 0.2689 (1 to 1/e), 0.5822 nats.
    entropy = (math.log(2) + math.log(4) + 4 * 0.5822) / 8
    assert grammars["perplexity"] == pytest.approx(math.exp(entropy), rel=1e-4)


def _interrupt(*_):
    raise KeyboardInterrupt


def test_what_is_begun_anew(tmp_path):
    """Runs of other settings always; the others once there is a summary; other files never."""
    configs = {name: load_config(path) for name, path in (GRAMMARS | MODELS).items()}
    other = load_config(MODELS["moe"], ["training.seed=1"])
    runs = {name: RunDirectory(tmp_path / name) for name in configs}

    def begin(name, config):
        (runs[name].checkpoints / "best").mkdir(parents=True, exist_ok=True)
        runs[name].write_json(runs[name].result, {})
        runs[name].config.write_text(dump_config(config))

    begin("moe", other)
    for name in ("dense", *GRAMMARS):
        begin(name, configs[name])
    (tmp_path / "moe" / "mine.txt").touch()
    clear_old_runs(configs, tmp_path)
    assert {path.name for path in runs["moe"].path.iterdir()} == {"mine.txt"}
    assert runs["dense"].begun() and runs["dense"].result.exists()
    assert all(runs[name].begun() for name in GRAMMARS)

    begin("moe", configs["moe"])
    clear_old_runs(configs, tmp_path)
    assert runs["moe"].begun() and runs["dense"].begun()

    runs["moe"].config.write_text("broken: [")
    clear_old_runs(configs, tmp_path)
    assert not runs["moe"].begun() and runs["dense"].begun()

    (tmp_path / "summary.json").touch()
    clear_old_runs(configs, tmp_path)
    assert not any(run.begun() for run in runs.values())
    assert not (tmp_path / "summary.json").exists()


def test_mistakes_remove_nothing(refused, demo, tmp_path):
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "summary.json").touch()
    assert "nowhere.txt: no such file" in refused(*demo, "--set", "data.train=nowhere.txt")
    assert "data.test: is empty" in refused(*demo, "--set", "data.test=[]")
    assert (folder / "summary.json").exists()
    # What only one of the models has cannot be set for both.
    assert "num_experts" in refused(*demo, "--set", "model.blocks[1].num_experts=4")
