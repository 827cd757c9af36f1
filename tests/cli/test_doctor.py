"""Runs are made of their small files: the command reads no weights and no text."""

import json
import shutil

import pytest
import tensorflow as tf

from tfmoe.config import dump_config, load_config
from tfmoe.training.run_directory import RunDirectory
from tfmoe.training.run_lock import only_one_training

HEALTHY = {
    "loss": 1.5, "val_loss": 1.6, "moe_0_cv_importance": 0.2, "moe_0_cv_load": 0.2,
    "moe_0_max_over_mean_load": 1.4, "moe_0_unused_experts": 0.0, "moe_0_dropped": 0.0,
    "val_moe_0_unused_experts": 0.0, "words": 1200.0,
}  # fmt: skip
# 120 words in a step, 2 experts of 4 for each.
STEPS = "training.steps_per_epoch=10"


@pytest.fixture
def make_run(finished, corpus, tmp_path):
    """A function that makes a run of two epochs with such logs, settings and gate entropy."""

    def make_run(logs=HEALTHY, settings=(), entropy=0.9, name="run"):
        run = RunDirectory(tmp_path / name)
        run.path.mkdir()
        for file in ("run.json", "vocabulary.txt", "result.json"):
            shutil.copy(finished.path / file, run.path)
        run.config.write_text(dump_config(load_config(corpus / "tiny.yaml", [STEPS, *settings])))
        run.write_history([{"epoch": epoch, **logs} for epoch in (1, 2)])
        with tf.summary.create_file_writer(str(run.logs / "experts")).as_default():
            tf.summary.scalar("moe_0/gate_entropy", entropy, 1)
            tf.summary.scalar("moe_0/noise", 0.4, 1)
        return run

    return make_run


@pytest.fixture
def examined(command):
    """A function that examines a run as JSON."""

    def examined(run):
        status, out, err = command("doctor", run.path, "--json")
        assert (status, out.count("\n")) == (0, 1), err
        return json.loads(out)

    return examined


def test_what_training_wrote(examined, finished):
    """A run as `tfmoe train` leaves it has all figures."""
    found = examined(RunDirectory(finished.path))
    assert (found["state"], found["epochs"], found["mixtures"]) == ("finished", 4, ["moe_0"])
    assert found["not_checked"] == []
    figures = {each["figure"] for each in (*found["healthy"], *found["findings"])}
    assert figures >= {
        "loss", "val_loss (of the last two epochs)", "moe_0_cv_load", "val_moe_0_unused_experts",
        "moe_0/gate_entropy", "moe_0/noise", "moe_0: balancing loss / loss",
        "moe_0: tokens for an expert",
    }  # fmt: skip


def test_a_healthy_run(command, make_run):
    status, out, err = command("doctor", make_run().path)
    assert status == 0, err
    head, table = out.split("\n\n")
    assert head.endswith("run: finished, 2 of 4 epochs, moe_0")
    assert table.startswith("No findings. These figures are healthy:\nfigure ")
    # Half way from 2 to 4 experts, plus chance: √(4/3 - 1 + 1/60).
    assert "\nmoe_0_cv_load                      0.2  at most 0.592\n" in table


def test_a_run_that_fails(command, examined, make_run):
    """The keys are those of the config: the command at the end is one that trains."""
    settings = [
        "model.blocks[0].gate.importance_weight=0",
        "model.blocks[0].gate.load_weight=0",
        "model.blocks[0].capacity_factor=0.5",
    ]
    logs = {**HEALTHY, "moe_0_cv_load": 0.98, "moe_0_dropped": 0.5}
    run = make_run(logs, settings)
    status, out, err = command("doctor", run.path)
    assert status == 0, err
    assert "PROBLEM  collapse  moe_0\n  moe_0_cv_load is 0.98; healthy: at most 0.827\n" in out
    assert "  change: model.blocks[0].gate.load_weight=0.1 (now 0)\n" in out
    assert "\nHealthy:\nfigure" in out
    last = out.splitlines()[-1]
    assert last.startswith(f"tfmoe train {run.config} --run-dir {run.path}-changed --set ")
    found = examined(run)
    assert [each["kind"] for each in found["findings"]] == ["collapse", "capacity_too_small"]
    changes = [change for each in found["findings"] for change in each["changes"]]
    assert all(change["key"] in last for change in changes)
    overrides = [f"{each['key']}={json.dumps(each['value'])}" for each in changes]
    changed = load_config(run.config, overrides).model.blocks[0]
    assert (changed.gate.load_weight, changed.capacity_factor) == (0.1, None)


def test_all_other_findings_of_files(examined, make_run):
    run = make_run({**HEALTHY, "loss": 40.0, "val_loss": 41.0}, entropy=0.01)
    found = examined(run)
    assert [(each["kind"], each["where"]) for each in found["findings"]] == [
        ("divergence", "training"),
        ("saturated_gate", "moe_0"),
    ]
    # By lot one of 8 words: ln 8.
    assert found["findings"][0]["most"] == pytest.approx(2.0794, abs=1e-4)


def test_a_dense_model(command, examined, make_run):
    settings = ["model.blocks=[{name: feed_forward, hidden_units: 4}]"]
    run = make_run({"loss": 1.5, "words": 1200.0}, settings)
    found = examined(run)
    assert (found["mixtures"], found["findings"], found["not_checked"]) == ([], [], [])
    assert "2 of 4 epochs, no mixture of experts" in command("doctor", run.path)[1]


def test_of_which_there_are_no_figures(examined, make_run):
    """A mixture with metrics=False, and no validation text."""
    run = make_run({"loss": 1.5, "words": 1200.0})
    shutil.rmtree(run.logs)
    first, second = examined(run)["not_checked"]
    assert first.startswith("moe_0: use of experts (history.csv has no moe_0_cv_load")
    assert second.startswith("moe_0: gate values (logs/experts has no moe_0/gate_entropy")


def test_states(examined, make_run):
    run = make_run()
    run.result.unlink()
    assert examined(run)["state"] == "stopped"
    with only_one_training(run.path):
        assert examined(run)["state"] == "training"


def test_mistakes(refused, make_run, tmp_path):
    assert "is not the folder of a run: it has no config.yaml" in refused("doctor", tmp_path)
    run = make_run()
    run.history.unlink()
    message = refused("doctor", run.path)
    assert "has no finished epoch (there is no history.csv): training stopped" in message
    assert "lower training.optimizer.learning_rate" in message
    with only_one_training(run.path):
        assert "it is still training; repeat the command after" in refused("doctor", run.path)
    run.history.write_text("epoch,loss\n1,x\n")
    assert "history.csv:2: not a row of numbers" in refused("doctor", run.path)


# demo/grammars, made to fail in each way: 4 epochs of 60 steps.
GATE, MIXTURE = "model.blocks[1].gate.", "model.blocks[1]."
FAILING = {
    "healthy": ([], set()),
    "collapse": ([f"{GATE}importance_weight=0", f"{GATE}load_weight=0"], {"collapse"}),
    "weak": ([f"{GATE}importance_weight=1e-3", f"{GATE}load_weight=1e-3"], {"balancing_weak"}),
    "strong": ([f"{GATE}importance_weight=100", f"{GATE}load_weight=100"], {"balancing_strong"}),
    "levels": (
        [f"{MIXTURE}groups=8", f"{GATE}importance_weight=0", f"{GATE}load_weight=0"],
        {"balancing_off"},
    ),
    "switch": ([f"{MIXTURE}gate={{name: switch, balance_weight: 0}}"], {"collapse"}),
    "strong_switch": (
        [f"{MIXTURE}gate={{name: switch, balance_weight: 10}}"],
        {"balancing_strong"},
    ),
    "softmax": ([f"{MIXTURE}gate={{name: softmax}}", f"{MIXTURE}num_experts=16"], set()),
    "thresholds": ([f"{MIXTURE}gate={{name: batchwise, k: 2}}"], {"thresholds_off"}),
    "rate": (["training.optimizer.learning_rate=1"], {"divergence", "saturated_gate"}),
    "infinite": (["training.optimizer.learning_rate=1e3"], {"divergence"}),
    "saturated": (["training.optimizer.learning_rate=0.3"], {"saturated_gate"}),
    "dropped": ([f"{MIXTURE}capacity_factor=0.25"], {"capacity_too_small"}),
    "idle": ([f"{MIXTURE}capacity_factor=8"], {"capacity_too_large"}),
    "many": (
        [f"{MIXTURE}num_experts=1024", "training.epochs=3", "training.steps_per_epoch=20"],
        {"dead_experts", "small_expert_batch"},
    ),
    "overfitting": (
        ["data.train_sentences=300", "training.epochs=10", "training.steps_per_epoch=30"],
        {"overfitting"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILING)
def test_runs_made_to_fail(command, examined, tmp_path, monkeypatch, shared, name):
    settings, kinds = FAILING[name]
    cache, _ = shared("grammars", lambda path: path.mkdir())
    monkeypatch.setenv("TFMOE_CACHE", str(cache))
    settings = [
        "training.epochs=4", "training.steps_per_epoch=60", "training.validation_batches=8",
        "training.optimizer.schedule.warmup_steps=40", *settings,
    ]  # fmt: skip
    run = RunDirectory(tmp_path / "run")
    arguments = [part for setting in settings for part in ("--set", setting)]
    status, _, err = command("train", "demo/grammars", "--run-dir", run.path, *arguments)
    assert status == (2 if name == "infinite" else 0), err
    found = examined(run)
    assert {each["kind"] for each in found["findings"]} >= kinds
    assert bool(found["findings"]) == bool(kinds)
