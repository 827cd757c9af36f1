"""`tfmoe ablate`."""

import csv
import json
import shutil
import statistics

import keras
import pytest

from tfmoe.tasks.ablation import named_configs
from tfmoe.training.run_directory import RunDirectory

PAPER = """\
base: tiny.yaml
paper: {table: Table 6, row: none, perplexity: 39.8, cv_load: 3.01, max_over_mean_load: 17.8}
training: {epochs: 2, checkpoint_every_steps: null}
model:
  blocks: [{name: moe, num_experts: 4, hidden_units: 4, gate: {name: noisy_top_k, k: 2}}]
"""
DENSE = """\
base: tiny.yaml
training: {epochs: 2, checkpoint_every_steps: null}
model:
  blocks: [{name: feed_forward, hidden_units: 12}]
"""
FILES = ("ablation.csv", "ablation.png", "summary.json")


@pytest.fixture
def folder(corpus, tmp_path, command, monkeypatch):
    """The corpus, and the configs of a sweep: moe-0.1.yaml, a row of the paper, and dense.yaml."""
    for file in corpus.iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "moe-0.1.yaml").write_text(PAPER)
    (tmp_path / "dense.yaml").write_text(DENSE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stop_in_third_epoch(monkeypatch):
    """Stops after the third epoch in total is saved: the first epoch of the second run."""
    epochs = []

    def on_epoch_end(*_):
        epochs.append(1)
        if len(epochs) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(keras.callbacks.TensorBoard, "on_epoch_end", on_epoch_end)


def contents(sweep):
    return [(sweep / file).read_bytes() for file in FILES]


@pytest.mark.slow
def test_stop_then_finish_then_add_seeds(command, refused, folder, monkeypatch):
    sweep = folder / "sweep"
    ablate = ["ablate", "moe-0.1.yaml", "dense.yaml", "--run-dir", sweep]
    with monkeypatch.context() as patch:
        stop_in_third_epoch(patch)
        status, out, err = command(*ablate)
    assert (status, err) == (130, "\ntfmoe: stopped; repeat the command to resume\n")
    assert "[1/2] moe-0.1, seed 0: test perplexity " in out
    assert {path.name for path in sweep.iterdir()} == {"moe-0.1", "dense"}
    trained = (sweep / "moe-0.1" / "seed-0" / "result.json").stat().st_mtime_ns

    status, out, err = command(*ablate, "--seeds", "2")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert (sweep / "moe-0.1" / "seed-0" / "result.json").stat().st_mtime_ns == trained
    assert f"resuming {sweep}/dense/seed-0 after epoch 1" in lines
    # The second epoch of the dense run, and two epochs of each run with the other seed.
    assert [line for line in lines if line[:6] == "Epoch "] == [
        "Epoch 2/2",
        *["Epoch 1/2", "Epoch 2/2"] * 2,
    ]
    progress = [line for line in lines if line.startswith("[")]
    assert [line.split(":")[0] for line in progress] == [
        "[1/4] moe-0.1, seed 0", "[2/4] dense, seed 0", "[3/4] moe-0.1, seed 1",
        "[4/4] dense, seed 1",
    ]  # fmt: skip
    assert progress[0].endswith("; already finished") and progress[3].endswith(" s of training")
    check_files(sweep)

    # A run of a sweep equals the same run on its own.
    alone = folder / "alone"
    seed = ["--set", "training.seed=1", "--run-dir", alone]
    assert command("train", "moe-0.1.yaml", *seed)[0] == 0
    for column in ("perplexity", "moe_0_cv_load"):
        one, other = (
            json.loads((path / "result.json").read_text())[column]
            for path in (alone, sweep / "moe-0.1" / "seed-1")
        )
        assert one == other

    before = contents(sweep)
    status, again, err = command(*ablate, "--seeds", "2")
    assert (status, err) == (0, "")
    assert "Epoch" not in again and again.count("; already finished\n") == 4
    assert again.splitlines()[4:] == lines[lines.index(progress[3]) + 1 :]
    assert contents(sweep) == before

    err = refused(*ablate, "--set", "training.optimizer.learning_rate=1e-4")
    message = "moe-0.1/seed-0 was started with another config, which differs in training.optimizer."
    assert message in err
    assert contents(sweep) == before


def check_files(sweep):
    """Checks that ablation.csv and summary.json have the results of the four runs."""
    with open(sweep / "ablation.csv", newline="") as file:
        rows = {(row["config"], row["seed"]): row for row in csv.DictReader(file)}
    assert list(rows) == [(name, seed) for seed in "01" for name in ("moe-0.1", "dense")]
    summary = json.loads((sweep / "summary.json").read_text())
    assert summary["seeds"] == 2 and list(summary["configs"]) == ["moe-0.1", "dense"]
    for name, config in summary["configs"].items():
        runs = [RunDirectory(sweep / name / f"seed-{seed}") for seed in (0, 1)]
        results = [run.read_json(run.result) for run in runs]
        perplexities = [result["perplexity"] for result in results]
        assert perplexities == [float(rows[name, seed]["perplexity"]) for seed in "01"]
        assert config["perplexity"] == pytest.approx(sum(perplexities) / 2)
        assert config["perplexity_deviation"] == pytest.approx(statistics.stdev(perplexities))
        last = [run.read_history()[-1] for run in runs]
        for metric in ("cv_importance", "cv_load", "max_over_mean_load"):
            for part, logs in (("train", last), ("test", results)):
                values = [metrics.get(f"moe_0_{metric}") for metrics in logs]
                texts = [rows[name, seed][f"{part}_{metric}"] for seed in "01"]
                if name == "dense":
                    assert (config[part][metric], texts) == (None, ["", ""])
                else:
                    assert config[part][metric] == pytest.approx(sum(values) / 2)
                    assert values == [float(text) for text in texts]
    moe, dense = summary["configs"].values()
    assert (moe["num_experts"], dense["num_experts"]) == (4, 0)
    assert (moe["ops_per_timestep"], dense["ops_per_timestep"]) == (96, 2 * 4 * 12)
    assert (moe["paper"]["perplexity"], dense["paper"]) == (39.8, None)
    assert {path.name for path in sweep.iterdir()} == {*FILES, "moe-0.1", "dense"}
    assert (sweep / "ablation.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_shipped_sweeps():
    assert set(named_configs(None, capacity=False)) == {
        f"importance-{importance}-load-{load}"
        for importance, load in (
            (0.0, 0.0), (0.2, 0.0), (0.0, 0.2), (0.1, 0.1), (0.01, 0.01), (1.0, 1.0),
        )
    }  # fmt: skip
    assert list(named_configs([], capacity=True)) == [f"experts-{n}" for n in (4, 16, 64, 256)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "--seeds must be from 1 to 1,000, got 0"),
        (["tiny.yaml", "nowhere.yaml"], "nowhere.yaml: no such file, and no shipped config"),
        (["tiny.yaml", "./tiny.yaml"], "have the same name, tiny, and would have the same folder"),
        (["tiny.yaml", "--capacity"], "--capacity chooses the configs: give either --capacity or"),
        (["tiny.yaml", "--set", "training.seed=3"], "choose the seeds of a sweep with --seeds"),
        (["tiny.yaml", "dense.yaml", "--set", "data.test=[]"], "data.test: is empty in tiny"),
        (["tiny.yaml", "dense.yaml", "--set", "model.blocks[0].k=1"], "model.blocks[0].k"),
    ],
)
def test_errors_before_any_training(refused, folder, arguments, message):
    assert message in refused("ablate", *arguments)
    assert not (folder / "runs").exists()
