"""`tfmoe prune`."""

import json

import numpy as np
import pytest

from tfmoe.config import load_config
from tfmoe.tasks import load_run, prune_run, prune_table
from tfmoe.tasks.prune import most_salient, places_to_prune
from tfmoe.training.run_directory import RunDirectory
from tfmoe.training.state import saved_step


@pytest.fixture(scope="module")
def pruned(corpus, finished, tmp_path_factory):
    """The folder of `finished` with half of its four experts, and the result."""
    out = tmp_path_factory.mktemp("pruned") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(corpus)
        return out, prune_run(finished.path, out)


def test_the_most_salient_experts_stay(finished, pruned):
    out, result = pruned
    mixture = result["mixtures"]["model.blocks[0]"]
    kept = mixture["kept"]
    assert mixture["experts"] == 4 and len(mixture["saliency"]) == 4
    assert kept == sorted(np.argsort(mixture["saliency"])[2:])
    for weights in ("best", "last"):
        old = load_run(finished.path, weights).model.blocks[0].layer
        new = load_run(out, weights).model.blocks[0].layer
        assert new.num_experts == 2
        for name in ("gate_kernel", "noise_kernel"):
            expected = np.array(getattr(old.gate, name))[:, kept]
            np.testing.assert_array_equal(getattr(new.gate, name), expected)
        for before, after in zip(old.experts.kernels, new.experts.kernels, strict=True):
            np.testing.assert_array_equal(after, np.array(before)[kept])
    made_from = json.loads(RunDirectory(out).facts.read_text())["made_from"]
    assert made_from["command"] == "prune" and made_from["mixtures"] == result["mixtures"]


def test_perplexity_before_and_after(finished, pruned):
    _, result = pruned
    perplexity = result["perplexity"]
    expected = json.loads((finished.path / "result.json").read_text())["perplexity"]
    assert perplexity["before"] == pytest.approx(expected, rel=1e-6)
    assert result["evaluated_on"] == "test"
    assert result["resume"].endswith("--resume --set training.epochs=8")  # all 4 are finished
    table = prune_table(result).splitlines()
    assert table[1].split() == ["experts", "of", "model.blocks[0]", "4", "2"]
    shown = [f"{perplexity[when]:.2f}" for when in ("before", "after")]
    assert table[-1].split() == ["perplexity", "(test)", *shown]


@pytest.mark.slow
def test_all_experts_kept_change_nothing(command, finished, tmp_path):
    out = tmp_path / "same"
    status, text, err = command("prune", finished.path, out, "--keep", "1")
    assert status == 0, err
    table = {line[:30].strip(): line[30:].split() for line in text.split("\n\n")[0].splitlines()}
    assert table["experts of model.blocks[0]"] == ["4", "4"]
    assert table["perplexity (test)"][0] == table["perplexity (test)"][1]
    for weights in ("best", "last"):
        old, new = (load_run(path, weights).model for path in (finished.path, out))
        for before, after in zip(old.weights, new.weights, strict=True):
            np.testing.assert_array_equal(after, before)
    old, new = (RunDirectory(path).checkpoints for path in (finished.path, out))
    assert saved_step(new, "last") == saved_step(old, "last")
    assert saved_step(new, "best") == saved_step(old, "best")


@pytest.mark.slow
def test_a_pruned_run_trains_on(command, finished, pruned, tmp_path):
    out, result = pruned
    evaluated = json.loads(command("evaluate", out, "--json")[1])
    assert evaluated["perplexity"] == pytest.approx(result["perplexity"]["after"], rel=1e-6)
    config = out / "config.yaml"
    status, _, err = command(
        "train", config, "--run-dir", out, "--resume", "--set", "training.epochs=6"
    )
    assert status == 0, err
    history = RunDirectory(out).read_history()
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5, 6]
    assert history[:4] == RunDirectory(finished.path).read_history()
    # The best weights are those of the pruned model.
    assert saved_step(RunDirectory(out).checkpoints, "best") > saved_step(
        RunDirectory(finished.path).checkpoints, "last"
    )
    assert command("export", out, tmp_path / "exported")[0] == 0
    assert command("inspect", out, "--shuffles", "2", "--json")[0] == 0


@pytest.mark.parametrize(
    "keep, message",
    [
        ("0", "--keep must be more than 0 and at most 1, got 0.0"),
        ("1.5", "--keep must be more than 0 and at most 1, got 1.5"),
        (
            "0.25",
            "--keep 0.25 keeps 1 of the 4 experts of model.blocks[0], but a token selects k=2: "
            "--keep must be at least 0.5",
        ),
    ],
)
def test_bad_fractions(refused, finished, tmp_path, keep, message):
    assert message in refused("prune", finished.path, tmp_path / "out", "--keep", keep)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "override, message",
    [
        ("model.blocks[1].groups=4", r"model.blocks\[1\] is hierarchical \(groups=4\)"),
        ("model.blocks[1].gate={name: hash}", "has the gate hash, which is not learned"),
        (
            "model.blocks[1].gate={name: bias_balanced, expert_groups: 4}",
            "has expert_groups=4, which need all experts",
        ),
        (
            "model.blocks[1]={name: feed_forward, hidden_units: 3}",
            "run has no moe block to prune: its blocks are lstm, feed_forward",
        ),
    ],
)
def test_mixtures_that_cannot_be_pruned(override, message):
    config = load_config("demo/language_model", [override])
    with pytest.raises(ValueError, match=message):
        places_to_prune(config, "run", 0.5)


def test_ties():
    np.testing.assert_array_equal(most_salient(np.array([1.0, 2, 1, 2, 1]), 3), [0, 1, 3])
