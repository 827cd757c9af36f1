"""Exports of runs as checkpoints for Hugging Face Transformers. For those as SavedModels see
`tests/cli/test_export.py`.
"""

import json

import numpy as np
import pytest
from tasks.started_run import started_run

from tfmoe.config import load_config
from tfmoe.data_pipelines import Vocabulary
from tfmoe.huggingface import load_model
from tfmoe.tasks import export_run, load_run
from tfmoe.tasks.export import FORMATS

pytest.importorskip("safetensors", reason="safetensors is not installed")

CONFIG = """\
model:
  name: language_model
  d_model: 8
  final_norm: rms
  softmax_bias: false
  blocks:
    - {name: self_attention, num_heads: 2, rotary_base: 100, norm: rms}
    - name: moe
      num_experts: 4
      hidden_units: 5
      gated: true
      activation: silu
      gate: {name: top_k, k: 2}
      norm: rms
      output_activation: null
data: {name: grammars, grammars: 2, symbols: 3, successors: 2, train_sentences: 9, max_length: 12}
"""
WORDS = ["</S>", "<S>", "<UNK>", "a", "b"]


@pytest.fixture
def start(tmp_path, monkeypatch):
    """A function of overrides that writes a run after 0 training steps."""
    monkeypatch.setenv("TFMOE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "config.yaml").write_text(CONFIG)

    def start(*overrides):
        config = load_config(tmp_path / "config.yaml", overrides)
        run, _, state = started_run(config, tmp_path / "run", Vocabulary(WORDS))
        state.save_best()
        return run.path

    return start


def test_a_run(start, tmp_path):
    run, out = start(), tmp_path / "out"
    text = export_run(run, out, format="huggingface")
    assert text.startswith(f"{out}: a checkpoint for Transformers; 0.0 MB\n")
    assert "AutoModelForCausalLM.from_pretrained" in text
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "model.safetensors",
        "vocabulary.txt",
    ]
    keys = json.loads((out / "config.json").read_text())
    assert (keys["model_type"], keys["rope_theta"]) == ("mixtral", 100)
    assert (keys["bos_token_id"], keys["eos_token_id"], keys["pad_token_id"]) == (1, 0, 0)
    assert keys["max_position_embeddings"] == 12
    assert (out / "vocabulary.txt").read_text().split("\n") == [*WORDS, ""]
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1
    tokens = np.array([[1, 3, 4, 4]])
    model, again = load_run(run).model, load_model(out)
    np.testing.assert_array_equal(
        again.word_logits(again(tokens)), model.word_logits(model(tokens))
    )


def test_a_folder_that_exists(start, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="out already exists and is not overwritten"):
        export_run(start(), tmp_path / "out", format="huggingface")


def test_a_model_that_does_not_fit(start, tmp_path):
    run = start("model.softmax_bias=true")
    with pytest.raises(ValueError, match="model: softmax_bias must be False in a Hugging Face"):
        export_run(run, tmp_path / "out", format="huggingface")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_formats_and_their_options(tmp_path):
    assert list(FORMATS) == ["savedmodel", "onnx", "litert", "tfjs", "huggingface"]
    message = "--format must be one of savedmodel, onnx, litert, tfjs, huggingface, got 'onxx'"
    with pytest.raises(ValueError, match=message):
        export_run(tmp_path, tmp_path, format="onxx")
    for name, value in (("half", True), ("int8", True), ("version", 2)):
        message = f"--{name} must be left out with --format huggingface, got {value}"
        with pytest.raises(ValueError, match=message):
            export_run(tmp_path, tmp_path, format="huggingface", **{name: value})
    with pytest.raises(ValueError, match="--top must be left out with --format huggingface, got 3"):
        export_run(tmp_path, tmp_path, options={"top": 3, "beam": None}, format="huggingface")
