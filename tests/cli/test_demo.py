import json

import pytest

from tfmoe.config import dump_config, load_config
from tfmoe.tasks.demo import MODELS, clear_old_runs
from tfmoe.training.run_directory import RunDirectory

TINY = [
    "data={name: text, train: train.txt, valid: valid.txt, test: test.txt, batch_tokens: 64, "
    "max_length: 8}",
    "model.d_model=4",
    "model.num_sampled=null",
    "model.blocks=[{name: moe, num_experts: 4, hidden_units: 4, gate: {name: noisy_top_k, k: 2}}]",
    "training.epochs=2",
    "training.steps_per_epoch=2",
]


@pytest.fixture
def demo(tmp_path):
    """The arguments of a tiny demo. --set makes its two models one and the same."""
    return ["demo", "--run-dir", tmp_path / "demo", *(f for s in TINY for f in ("--set", s))]


def test_stopped_and_finished(command, demo, tmp_path, monkeypatch):
    folder = tmp_path / "demo"
    with monkeypatch.context() as patch:
        patch.setattr("tfmoe.tasks.demo.perplexity_curves", _interrupt)
        status, _, err = command(*demo)
    assert (status, err) == (130, "\ntfmoe: stopped; the same command goes on with it\n")
    results = [(folder / name / "result.json").stat().st_mtime_ns for name in MODELS]
    assert not (folder / "summary.json").exists()
    (folder / "dense" / "result.json").unlink()  # as if it had been stopped before its end

    status, out, err = command(*demo)
    assert (status, err) == (0, "")
    assert "Epoch" not in out  # both were trained already
    assert results[0] < (folder / "moe" / "result.json").stat().st_mtime_ns
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary) == {"kneser_ney", "moe", "dense", "tokens", "test_tokens"}
    for name in ("kneser_ney", *MODELS):
        assert set(summary[name]) == {"perplexity", "ops_per_timestep", "parameters", "seconds"}
    for name in MODELS:
        history = RunDirectory(folder / name).read_history()
        assert summary["tokens"] == sum(row["words"] for row in history)
    assert summary["test_tokens"] == 11
    png = (folder / "curves.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and len(png) > 10_000
    lines = out.splitlines()
    head = lines.index("Use of the 4 experts of moe_0 on the test text; 0 unused")
    rows = [line.split() for line in lines[head + 2 : head + 6]]
    loads = [float(row[1]) for row in rows]
    assert sorted(row[0] for row in rows) == ["0", "1", "2", "3"]
    assert loads == sorted(loads, reverse=True)
    assert sum(loads) == pytest.approx(4, abs=0.02)  # loads over their mean, in hundredths
    (row,) = [line.split() for line in lines if line.startswith("dense")]
    assert row[2:4] == ["96", str(4 * 32 + 2 * 16 + 2 * 4 * 9 + 9)]  # 6 words, 3 special ones
    assert f"{summary['moe']['perplexity']:.2f}" in out
    (row,) = [line.split() for line in lines if line.startswith("Kneser-Ney 5-gram")]
    ngrams = summary["kneser_ney"]
    assert row[2:5] == [f"{ngrams['perplexity']:.2f}", "5", str(ngrams["parameters"])]
    assert f"Summary: {folder}/summary.json" in lines[-1]


def _interrupt(*_):
    raise KeyboardInterrupt


def test_what_is_begun_anew(tmp_path):
    """Runs of other settings always; the others once there is a summary; other files never."""
    configs = {name: load_config(path) for name, path in MODELS.items()}
    other = load_config(MODELS["moe"], ["training.seed=1"])
    runs = {name: RunDirectory(tmp_path / name) for name in configs}

    def begin(name, config):
        runs[name].write_json(runs[name].result, {})
        (runs[name].checkpoints / "best").mkdir(parents=True, exist_ok=True)
        runs[name].config.write_text(dump_config(config))

    begin("moe", other)
    begin("dense", configs["dense"])
    (tmp_path / "moe" / "mine.txt").touch()
    clear_old_runs(configs, tmp_path)
    assert {path.name for path in runs["moe"].path.iterdir()} == {"mine.txt"}
    assert runs["dense"].begun() and runs["dense"].result.exists()

    begin("moe", configs["moe"])
    clear_old_runs(configs, tmp_path)
    assert runs["moe"].begun() and runs["dense"].begun()

    runs["moe"].config.write_text("broken: [")
    clear_old_runs(configs, tmp_path)
    assert not runs["moe"].begun() and runs["dense"].begun()

    (tmp_path / "summary.json").touch()
    clear_old_runs(configs, tmp_path)
    assert not runs["dense"].begun()
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
