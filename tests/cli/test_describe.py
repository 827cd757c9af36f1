"""`tfmoe describe`."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

import tfmoe
from tfmoe.cli import main
from tfmoe.config import ConfigError


def run(capfd, *arguments):
    """`(exit status, standard output, standard error)` of a command."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return (caught.value.code or 0, *capfd.readouterr())


def test_json_and_nothing_else(tmp_path):
    root = pathlib.Path(tfmoe.__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-m", "tfmoe", "describe", "lm1b/moe-256", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "")
    counts = json.loads(result.stdout)
    # Two LSTMs of 4·1024·512, four experts of 2·512·1024, gates of 2·512·256.
    assert counts["ops_per_timestep"] == 8_650_752
    assert counts["ops_by_layer"] == {"lstm_0": 2_097_152, "moe_1": 4_456_448, "lstm_2": 2_097_152}
    # All 256 experts, and 2048 biases for each LSTM.
    parameters = counts["parameters"]
    assert parameters["experts"] == 268_435_456
    assert parameters["excluding_embedding_and_softmax"] == 272_891_904 + 4_096
    # 793471 · 512 twice, and the softmax's biases.
    assert parameters["total"] == 272_896_000 + 2 * 406_257_152 + 793_471
    assert counts["ops_of_softmax"] == 0
    assert counts["paper"]["perplexity"] == 35.7
    assert counts["vocabulary_size"] == 793_471


def test_table_with_the_papers_figures(capfd):
    status, out, _ = run(capfd, "describe", "lm1b/moe-256-h")
    assert status == 0
    lines = [line.split("  ") for line in out.splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert cells[0] == ["Table 7, MoE-256-h"]
    assert ["without embedding and softmax", "8,437,760", "272,912,384"] in cells
    assert ["the paper", "8.4 M", "272.9 M"] in cells
    assert ["the paper", "1.1 B"] in cells
    moe = next(line for line in out.splitlines() if line.startswith("moe_1"))
    assert "num_experts 256" in moe and "groups 16" in moe and "k 2" in moe


def test_changed_row(capfd):
    _, out, _ = run(capfd, "describe", "lm1b/moe-4", "--set", "model.dropout=0.2")
    assert out.startswith("Table 7, MoE-4 (changed by --set)\n")


def test_set(capfd):
    status, out, _ = run(
        capfd, "describe", "demo/dense", "--set", "model.blocks[1].hidden_units=10",
        "--set", "data.vocabulary.size=100", "--json",
    )  # fmt: skip
    counts = json.loads(out)
    assert status == 0
    assert counts["vocabulary_size"] == 100
    assert counts["paper"] is None
    width = counts["parameters"]["embedding"] // 100
    assert counts["ops_by_layer"]["feed_forward_1"] == 2 * width * 10


def test_memory_and_traffic(capfd):
    status, out, _ = run(
        capfd, "describe", "lm1b/moe-256", "--devices", "16", "--json",
    )  # fmt: skip
    counts = json.loads(out)
    assert status == 0
    assert (counts["devices"], counts["tokens_per_device"]) == (16, 18_750)
    memory = counts["memory_per_device"]
    # 16 of 256 experts of 2·512·1024, and everything else.
    assert memory["experts"]["weights"] == 4 * 16 * 2**20
    replicated = 2 * 406_257_152 + 793_471 + 2 * 2_099_200 + 2 * 512 * 256
    assert memory["weights"] == memory["gradients"] == 4 * (16 * 2**20 + replicated)
    assert memory["optimizer_slots"] == 2 * memory["weights"]
    # Two matrices of 512 + 1024 for each expert.
    factored = memory["optimizer_slots_by_optimizer"]["factored_adam"]
    assert factored == 4 * (16 * 2 * 1536 + 2 * replicated)
    # The hidden activations of 4 experts per position.
    kept = memory["activations_without_recompute"]
    assert kept - memory["activations_with_recompute"] == 4 * 18_750 * 4 * 1024
    assert memory["activations"] == kept
    # k·b·R/n; four experts, 512 features, four transfers, 15/16 to other devices.
    sent = 4 * 4 * 18_750 * 512 * 4 * 15 // 16
    assert counts["mixtures"]["moe_1"] == {
        "experts_per_device": 16,
        "expert_batch": 4 * 18_750 * 16 / 256,
        "bytes_sent": sent,
        "compute_to_communication": 1024.0,
        "multiply_adds_per_byte_sent": 3 * 4 * 18_750 * 2**20 / sent,
    }
    assert counts["bytes_sent_per_device"] == sent
    gradients = counts["gradient_traffic"]
    assert counts["bytes_sent_in_all"] == sent + gradients["dense"] + gradients["tables"]


def test_137_billion_parameters(capfd):
    status, out, _ = run(
        capfd, "describe", "news100b/moe-131072-h", "--devices", "128",
    )  # fmt: skip
    assert status == 0
    lines = {line[: line.index("  ")]: line.split() for line in out.splitlines() if "  " in line}
    assert "memory per device (128 devices, 19,532 positions each)" in lines
    assert lines["weights"] == ["weights", "4.73", "GB", "4.73", "GB"]
    assert lines["optimizer slots"][-4:] == ["9.45", "GB", "876.66", "MB"]
    assert "beside the experts' weights                             200%         0.293%" in out
    # 1024 experts on a device, 4·19532·128/131072 examples for each.
    (moe,) = [line.split() for line in out.splitlines() if line.startswith("moe_1") and "B" in line]
    assert moe == ["moe_1", "1,024", "76.3", "317.51", "MB", "1,024"]
    assert "this config (factored_adam, its own settings): " in out


def test_slots_depend_on_the_optimizer_settings(capfd):
    slots = []
    for rule in ("experts", "matrices", "none"):
        _, out, _ = run(
            capfd, "describe", "news100b/moe-32", "--json",
            "--set", f"training.optimizer.factored={rule}",
        )  # fmt: skip
        slots.append(json.loads(out)["memory_per_device"])
    experts, matrices, none = slots
    by_optimizer = experts["optimizer_slots_by_optimizer"]
    assert experts["optimizer_slots"] == by_optimizer["factored_adam"]
    assert none["optimizer_slots"] == by_optimizer["adam"] == 2 * none["weights"]
    # Only biases have full slots: 2 · (100000 + 2 · 2048). Factors: 100512 each for embedding and
    # softmax, twice 2 · 2560 for the LSTMs, twice 544 for the gates, 32 · 2 · 1536 for the experts.
    factors = 2 * 100_512 + 4 * 2_560 + 2 * 544 + 32 * 3_072
    assert matrices["optimizer_slots"] == 4 * (2 * 104_096 + factors)


def test_a_dense_model_sends_gradients_only(capfd):
    _, out, _ = run(capfd, "describe", "lm1b/4xlstm-512", "--devices", "4")
    assert "mixture" not in out and "recomputed" not in out
    _, out, _ = run(capfd, "describe", "lm1b/4xlstm-512", "--devices", "4", "--json")
    counts = json.loads(out)
    assert counts["mixtures"] == {} and counts["bytes_sent_per_device"] == 0
    assert counts["bytes_sent_in_all"] == counts["gradient_traffic"]["bytes_sent"] > 0


def test_row_without_printed_figures(capfd):
    _, out, _ = run(capfd, "describe", "ablation/importance-0.1-load-0.1")
    assert out.startswith("Table 6, w_importance 0.1, w_load 0.1\n")
    assert "the paper" not in out


def test_translation_with_the_papers_figures(capfd):
    status, out, _ = run(capfd, "describe", "wmt14/en-fr-moe-2048", "--devices", "64")
    assert status == 0
    lines = [line.split("  ") for line in out.splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert cells[0] == ["Table 2, MoE 2048 experts"]
    total = cells.index(["encoder, decoder and softmax, gates aside", "84,934,656"])
    assert cells[total + 1] == ["the paper", "85 M"]
    assert cells[total + 2] == ["without embedding and softmax", "8,644,047,488"]
    assert cells[total + 3] == ["total", "8,677,634,688"]
    assert cells[total + 4] == ["the paper", "8.7 B"]
    assert ["softmax", "16,777,216", "16,809,984"] in cells
    assert "in sentences of data.max_length (100)" in out


def test_translation_on_four_devices(capfd):
    status, out, _ = run(capfd, "describe", "demo/translation", "--devices", "4", "--json")
    counts = json.loads(out)
    assert status == 0
    # 4·2·256² for an LSTM, 4·256² more for the context; 2 experts of 2·256·512; 4000 subwords.
    assert counts["ops_by_layer"] == {
        "encoder_lstm_0": 524_288,
        "encoder_lstm_1": 524_288,
        "encoder_moe_2": 524_288,
        "encoder_lstm_3": 524_288,
        "decoder_attention_lstm_0": 786_432,
        "decoder_moe_1": 524_288,
        "decoder_lstm_2": 524_288,
    }
    assert counts["ops_of_softmax"] == 1_024_000
    assert counts["ops_per_timestep"] == sum(counts["ops_by_layer"].values()) + 1_024_000
    assert (counts["devices"], counts["tokens_per_device"]) == (4, 512)
    # 256 of 512 positions are the source's: 2·256·4/16 per expert.
    for mixture in ("encoder_moe_2", "decoder_moe_1"):
        assert counts["mixtures"][mixture]["expert_batch"] == 128
        assert counts["mixtures"][mixture]["bytes_sent"] == 4 * 2 * 256 * 256 * 4 * 3 // 4
    memory = counts["memory_per_device"]
    experts = 2 * 16 * 2 * 256 * 512
    assert memory["experts"]["weights"] == experts  # 4 bytes, a quarter of them
    assert memory["weights"] == experts + 4 * (counts["parameters"]["total"] - experts)


def test_attention_weights_depend_on_max_length(capfd):
    activations = []
    for length in (80, 81):
        _, out, _ = run(
            capfd, "describe", "demo/translation", "--set", f"data.max_length={length}", "--json"
        )
        activations.append(json.loads(out)["memory_per_device"]["activations"])
    assert activations[1] - activations[0] == 1024 * 2 * 4  # two weights per target position


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo/dense", "--devices", "0"], "--devices"),
        (
            ["news100b/moe-32", "--set", "training.optimizer.factored=[expert/]"],
            "factored names 'expert/', which is in no variable's path",
        ),
        (["nowhere.yaml"], "nowhere.yaml: no such file, and no shipped config of this name"),
        (
            ["demo/dense", "--set", "model.d_model=x"],
            "model.d_model: must be an integer of at least 1, got 'x'",
        ),
        (["demo/dense", "--set", "data.vocabulary.size=null"], "data.vocabulary.size: is null"),
        ([], "CONFIG"),
    ],
)
def test_errors(capfd, monkeypatch, arguments, message):
    monkeypatch.delenv("TFMOE_DEBUG", raising=False)
    status, out, err = run(capfd, "describe", *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_traceback_on_request(monkeypatch):
    monkeypatch.setenv("TFMOE_DEBUG", "1")
    with pytest.raises(ConfigError):
        main(["describe", "nowhere.yaml"])
