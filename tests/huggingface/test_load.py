"""Checkpoints of Mixtral and Qwen3-MoE as language models."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from huggingface.small_checkpoints import (
    MIXTRAL,
    QWEN,
    TOKENS,
    VARIANTS,
    Reference,
    random_tensors,
    write,
)

from tfmoe.distribute import MixedStrategy
from tfmoe.huggingface import load_model

pytest.importorskip("safetensors", reason="safetensors is not installed")


def logits_of(model, tokens=TOKENS):
    return model.word_logits(model(tokens)).numpy()


def stepped(model, tokens=TOKENS):
    """Logits by single steps, with the cache."""
    states, logits = model.initial_states(len(tokens), tokens.shape[1]), []
    for step in tokens.T:
        features, states = model.step(step, states)
        logits.append(model.word_logits(features))
    return np.stack(logits, axis=1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits(variant, tmp_path):
    config = VARIANTS[variant]
    tensors = random_tensors(config)
    model = load_model(write(tmp_path, config, tensors), dtype="float64")
    expected = Reference(config, tensors).logits(TOKENS)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(logits_of(model), expected, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(stepped(model), expected, atol=1e-5, rtol=1e-5)


def test_the_model(tmp_path):
    model = load_model(write(tmp_path, QWEN, random_tensors(QWEN)))
    names = [block.layer.name for block in model.blocks]
    assert names == [
        "self_attention_0",
        "moe_1",
        "self_attention_2",
        "feed_forward_3",
        "self_attention_4",
        "moe_5",
    ]
    gate = model.blocks[1].layer.gate
    assert (gate.k, gate.renormalize, gate.balance_weight) == (2, True, 0.002)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    copy.set_weights(model.get_weights())
    np.testing.assert_array_equal(logits_of(copy), logits_of(model))


def test_several_files_in_bfloat16(tmp_path):
    tensors = random_tensors(QWEN, tf.bfloat16.as_numpy_dtype)
    folder = write(tmp_path, QWEN, tensors, files=3)
    expected = Reference(QWEN, tensors).logits(TOKENS)
    model = load_model(folder, dtype="float32")
    np.testing.assert_allclose(logits_of(model), expected, atol=1e-5, rtol=1e-5)
    half = load_model(folder, dtype="bfloat16")
    assert {weight.dtype for weight in half.trainable_weights} == {"bfloat16"}
    np.testing.assert_array_equal(
        half.blocks[1].layer.experts.kernels[0], model.blocks[1].layer.experts.kernels[0]
    )
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.slow
def test_sharded_experts(tmp_path):
    folder = write(tmp_path, MIXTRAL, random_tensors(MIXTRAL))
    expected = logits_of(load_model(folder))
    strategy = MixedStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = load_model(folder)
    kernel = model.blocks[1].layer.experts.kernels[0].value
    assert [tuple(part.shape) for part in kernel.local_parts()] == [(2, 8, 24)] * 2
    run = tf.function(lambda tokens: strategy.run(lambda t: model.word_logits(model(t)), (tokens,)))
    outputs = strategy.experimental_local_results(run(tf.constant(TOKENS)))
    for output in outputs:
        np.testing.assert_allclose(output, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["mixtral", "qwen"])
def test_logits_equal_those_of_keras_hub(variant, tmp_path):
    keras_hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed")
    # KerasHub 0.32 does not read mlp_only_layers, and its queries have an epsilon of 1e-6.
    changes = {"sliding_window": 4, "use_sliding_window": True, "mlp_only_layers": []}
    config = {**VARIANTS[variant], **changes, "rms_norm_eps": 1e-6}
    folder = write(tmp_path, config, random_tensors(config))
    classes = {
        "mixtral": keras_hub.models.MixtralBackbone,
        "qwen": keras_hub.models.Qwen3MoeBackbone,
    }
    backbone = classes[variant].from_preset(str(folder))
    features = backbone({"token_ids": TOKENS, "padding_mask": np.ones_like(TOKENS)})
    expected = backbone.token_embedding(features, reverse=True)
    actual = logits_of(load_model(folder))
    np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (MIXTRAL, {"model_type": "llama"}, "model_type must be one of mixtral, qwen3_moe, got"),
        (MIXTRAL, {"hidden_size": None}, "the key hidden_size is missing"),
        (MIXTRAL, {"hidden_size": "8"}, "hidden_size must be an integer of at least 1, got '8'"),
        (MIXTRAL, {"num_attention_heads": 3}, "must be a divisor of hidden_size=8, got 3"),
        (MIXTRAL, {"num_experts_per_tok": 5}, "num_experts_per_tok must be at most 4, .*, got 5"),
        (MIXTRAL, {"num_key_value_heads": 3}, "must be a divisor of num_attention_heads=4, got 3"),
        (MIXTRAL, {"head_dim": 5}, r"head_dim must be even for rotary positions .*, got 5"),
        (MIXTRAL, {"hidden_act": "relu2"}, "hidden_act must be one of silu, gelu, relu, got 'relu"),
        (MIXTRAL, {"attention_dropout": 0.1}, "attention_dropout is not supported .*, got 0.1"),
        (MIXTRAL, {"router_jitter_noise": 0.1}, "router_jitter_noise is not supported .*got 0.1"),
        (MIXTRAL, {"quantization_config": {"bits": 4}}, "quantization_config is not supported"),
        (MIXTRAL, {"rope_scaling": {"type": "yarn"}}, r"rope_scaling is not supported .*'yarn'"),
        (MIXTRAL, {"rope_scaling": "yarn"}, "rope_scaling must be a mapping or null, got 'yarn'"),
        (MIXTRAL, {"rope_theta": -1}, "rope_theta must be above 0, got -1"),
        (MIXTRAL, {"rms_norm_eps": 0}, "rms_norm_eps must be a finite number above 0, got 0"),
        (MIXTRAL, {"sliding_window": 1.5}, "sliding_window must be an integer of at least 1"),
        (MIXTRAL, {"num_hidden_layers": 10**9}, "num_hidden_layers must be at most 10,000, got 1"),
        (QWEN, {"mlp_only_layers": "1"}, "mlp_only_layers must be a list of the indices of lay"),
        (QWEN, {"norm_topk_prob": 1}, "norm_topk_prob must be True or False, got 1"),
    ],
)
def test_bad_configurations(config, change, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=rf"config\.json: .*{message}"):
        load_model(tmp_path)


def test_no_configuration(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist: give the folder"):
        load_model(tmp_path)
    for text, message in (("{", "is not JSON"), ("[]", "must be a mapping, got list")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            load_model(tmp_path)


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({NORM: None}, r"has no tensor model\.norm\.weight \(1 missing\)"),
        ({"model.extra": np.ones(2)}, r"tensor model\.extra is not part of the model of config"),
        ({NORM: np.ones(9)}, r"model\.norm\.weight must have the shape \[8\] .* got \[9\]"),
        ({NORM: np.ones(8, "int8")}, r"model\.norm\.weight must have one of the types .* got I8"),
    ],
)
def test_bad_tensors(change, message, tmp_path):
    tensors = {**random_tensors(MIXTRAL), **change}
    tensors = {name: value for name, value in tensors.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        load_model(write(tmp_path, MIXTRAL, tensors))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 10**12}, r"weight must have the shape \[1000000000000, 8\]"),
        ({"intermediate_size": 10**12}, r"w1\.weight must have the shape \[1000000000000, 8\]"),
        ({"num_hidden_layers": 50}, r"has no tensor model\.layers\.[0-9]+\."),
    ],
)
def test_sizes_are_compared_before_memory_is_allocated(change, message, tmp_path):
    folder = write(tmp_path, {**MIXTRAL, **change}, random_tensors(MIXTRAL))
    with pytest.raises(ValueError, match=message):
        load_model(folder)


def test_bad_files(tmp_path):
    folder = write(tmp_path, MIXTRAL, random_tensors(MIXTRAL), files=2)
    (folder / "part-1.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"part-1\.safetensors does not exist"):
        load_model(folder)
    (folder / "part-1.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"part-1\.safetensors is damaged"):
        load_model(folder)
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ValueError, match=r"index\.json has no mapping weight_map"):
        load_model(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"tensor": 3}}')
    with pytest.raises(ValueError, match=r"weight_map must have names of files, got 3"):
        load_model(folder)


def test_computed_tensors_are_ignored(tmp_path):
    config = VARIANTS["mixtral window"]
    tensors = random_tensors(config)
    others = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(3),
        "lm_head.weight": tensors["model.embed_tokens.weight"],
    }
    expected = logits_of(load_model(write(tmp_path / "a", config, tensors)))
    actual = logits_of(load_model(write(tmp_path / "b", config, tensors | others)))
    np.testing.assert_array_equal(actual, expected)
