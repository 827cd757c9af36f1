"""Language models as checkpoints of Mixtral and Qwen3-MoE."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from huggingface.small_checkpoints import MIXTRAL, TOKENS, VARIANTS, random_tensors, write

from tfmoe.distribute import MixedStrategy
from tfmoe.gating import NoisyTopK, TopK
from tfmoe.huggingface import load_model, save_model
from tfmoe.layers import FeedForward, MoE, ProjectedLSTM, SelfAttention
from tfmoe.models import LanguageModel, residual_blocks

safetensors = pytest.importorskip("safetensors", reason="safetensors is not installed")


def tensors_in(folder):
    tensors = {}
    for file in folder.glob("*.safetensors"):
        with safetensors.safe_open(file, framework="np") as handle:
            assert handle.metadata() == {"format": "pt"}
            tensors |= {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    return tensors


@pytest.mark.parametrize("variant", VARIANTS)
def test_out_and_in_again(variant, tmp_path):
    config = VARIANTS[variant]
    tensors = random_tensors(config)
    model = load_model(write(tmp_path / "in", config, tensors))
    limit = 5_000_000_000 if variant == "mixtral" else 1200
    out = save_model(model, tmp_path / "out", max_file_bytes=limit, more={"bos_token_id": 1})
    files = sorted(path.name for path in out.glob("*.safetensors"))
    if variant == "mixtral":
        assert files == ["model.safetensors"]
    else:
        index = json.loads((out / "model.safetensors.index.json").read_text())
        assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
        assert set(index["weight_map"].values()) == set(files)
        assert set(index["weight_map"]) == set(tensors)
        assert index["metadata"] == {"total_size": sum(x.nbytes for x in tensors.values())}
        assert all((out / name).stat().st_size < 1200 + 2000 for name in files)
    written = tensors_in(out)
    assert written.keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(written[name], value)
    keys = json.loads((out / "config.json").read_text())
    assert keys["bos_token_id"] == 1 and keys["torch_dtype"] == "float32"
    again = load_model(out)
    assert again.get_config()["blocks"] == model.get_config()["blocks"]
    np.testing.assert_array_equal(again(TOKENS), model(TOKENS))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def small_model(**changes):
    """A language model that Mixtral can hold, with other options for its parts."""
    gate = changes.pop("gate", TopK(2))
    attention = {"num_heads": 2, **changes.pop("attention", {})}
    options = {"activation": None, "norm": "rms", **changes.pop("block", {})}
    mixture = {"num_experts": 4, "hidden_units": 6, "activation": "silu", "gated": True}
    layers = changes.pop("layers", None) or [
        SelfAttention(name="attention", **attention),
        MoE(name="mixture", gate=gate, **{**mixture, **changes.pop("mixture", {})}),
    ]
    blocks = residual_blocks(layers, **options)
    model = LanguageModel(11, 8, blocks, **{"final_norm": "rms", "softmax_bias": False, **changes})
    model.build((None, None))
    return model


def test_types(tmp_path):
    model = small_model(dropout=0.1, num_sampled=5, mixture={"capacity_factor": 2.0})
    save_model(model, tmp_path / "half", dtype="bfloat16")
    tensors = tensors_in(tmp_path / "half")
    assert {str(value.dtype) for value in tensors.values()} == {"bfloat16"}
    np.testing.assert_array_equal(
        tensors["lm_head.weight"], tf.cast(model.softmax.kernel, tf.bfloat16)
    )
    with pytest.raises(ValueError, match=r"dtype must be one of .*, got 'int8'"):
        save_model(model, tmp_path / "other", dtype="int8")


def test_what_exists_is_kept(tmp_path):
    model = small_model()
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileExistsError, match="folder already exists and is not overwritten"):
        save_model(model, tmp_path / "folder")
    assert list((tmp_path / "folder").iterdir()) == []


def lstm_blocks():
    return [ProjectedLSTM(5, 8, return_sequences=True, name="lstm"), FeedForward(5)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"softmax_bias": True}, "model: softmax_bias must be False in .*, got True"),
        ({"final_norm": "layer"}, "model: final_norm must be 'rms' in .*, got 'layer'"),
        ({"block": {"norm": "layer"}}, r"blocks\[0\] \(attention\): norm must be 'rms'"),
        ({"block": {"activation": "tanh"}}, r"\(attention\): activation must be 'linear' .*'tanh'"),
        ({"block": {"norm_epsilon": [1e-5, 1e-6]}}, r"\(mixture\): norm_epsilon must be 1e-05, t"),
        ({"attention": {"rotary_base": None}}, r"\(attention\): rotary_base must be a number"),
        ({"attention": {"use_bias": True}}, r"\(attention\): use_bias must be False .*, got True"),
        ({"attention": {"query_key_norm": "layer"}}, "query_key_norm must be 'rms' in"),
        ({"mixture": {"gated": False}}, r"blocks\[1\] \(mixture\): gated must be True .*got False"),
        ({"mixture": {"activation": "tanh"}}, "activation must be one of silu, gelu, relu in"),
        ({"mixture": {"shared_experts": 1}}, r"\(mixture\): shared_experts must be 0 .*, got 1"),
        ({"mixture": {"groups": 2}}, r"\(mixture\): groups must be None .*, got 2"),
        ({"gate": NoisyTopK(k=2)}, r"\(mixture\), gate must be a TopK .* got a NoisyTopK"),
        ({"gate": TopK(2, score="sigmoid")}, r"gate: score must be 'softmax' .* got 'sigmoid'"),
        ({"gate": TopK(2, renormalize=False)}, "gate: renormalize must be True .* got False"),
        (
            {"layers": lstm_blocks()},
            r"blocks\[0\] \(lstm\) must be a SelfAttention .*, got a ProjectedLSTM",
        ),
        ({"layers": [SelfAttention(2, name="a")]}, r"\(a\) must be followed by a MoE or a FeedF"),
        (
            {"layers": [SelfAttention(2), FeedForward(5, gated=True)]},
            "model must have a mixture in a Hugging Face checkpoint, got none",
        ),
    ],
)
def test_models_that_the_format_cannot_hold(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_model(small_model(**changes), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_built_model(tmp_path):
    with pytest.raises(ValueError, match=r"must be a tfmoe\.models\.LanguageModel .* Sequential"):
        save_model(keras.Sequential(), tmp_path / "new")
    blocks = residual_blocks([SelfAttention(2), MoE(4, 4, gated=True)], norm="rms")
    with pytest.raises(ValueError, match=r"must be built: call model\.build"):
        save_model(LanguageModel(9, 8, blocks), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_layers_that_differ(tmp_path):
    def layer(heads):
        mixture = MoE(4, 6, gate=TopK(2), activation="silu", gated=True)
        return [SelfAttention(heads, name=f"heads_{heads}"), mixture]

    with pytest.raises(ValueError, match=r"blocks\[2\] \(heads_4\): num_heads must be 2, that of"):
        save_model(small_model(layers=layer(2) + layer(4)), tmp_path / "out")
    dense = [*layer(2), SelfAttention(2), FeedForward(5, gated=True, name="dense")]
    with pytest.raises(ValueError, match=r"\(dense\) must be a MoE in a checkpoint of Mixtral"):
        save_model(small_model(layers=dense), tmp_path / "out")


def test_a_full_disk(tmp_path, full_disk):
    model = small_model()
    with full_disk(2000), pytest.raises(OSError, match="File too large") as error:
        save_model(model, tmp_path / "out")
    assert error.value.filename == str(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_keys_that_the_model_determines(tmp_path):
    with pytest.raises(ValueError, match=r"more\['hidden_size'\] must be left out: it is 8 by"):
        save_model(small_model(), tmp_path / "out", more={"hidden_size": 9})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_sharded_experts(tmp_path):
    tensors = random_tensors(MIXTRAL)
    write(tmp_path / "in", MIXTRAL, tensors)
    with MixedStrategy(["CPU:0", "CPU:1"]).scope():
        model = load_model(tmp_path / "in")
    for name, value in tensors_in(save_model(model, tmp_path / "out")).items():
        np.testing.assert_array_equal(value, tensors[name])
