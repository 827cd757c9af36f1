"""Small backbones of KerasHub with random weights."""

import keras
import numpy as np
import pytest

keras_hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed")

COMMON = {
    "vocabulary_size": 50,
    "num_layers": 2,
    "num_query_heads": 2,
    "num_key_value_heads": 1,
    "hidden_dim": 8,
}
models = keras_hub.models


def mixtral(num_experts=4, **options):
    return models.MixtralBackbone(
        **{**COMMON, "intermediate_dim": 6, "num_experts": num_experts, "top_k": 2, **options}
    )


def qwen_moe(num_experts=4, **options):
    return models.QwenMoeBackbone(
        **{
            **COMMON,
            "intermediate_dim": 12,
            "moe_intermediate_dim": 6,
            "shared_expert_intermediate_dim": 10,
            "num_experts": num_experts,
            "top_k": 2,
            **options,
        }
    )


def qwen3_moe(num_experts=4, **options):
    return models.Qwen3MoeBackbone(
        **{
            **COMMON,
            "intermediate_dim": 12,
            "moe_intermediate_dim": 6,
            "head_dim": 4,
            "num_experts": num_experts,
            "top_k": 2,
            "norm_top_k_prob": True,
            **options,
        }
    )


def qwen3_5_moe(num_experts=4, **options):
    return models.Qwen3_5MoeBackbone(
        **{
            **COMMON,
            "head_dim": 8,
            "moe_intermediate_dim": 6,
            "shared_expert_intermediate_size": 10,
            "num_experts": num_experts,
            "top_k": 2,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 1,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 4,
            "linear_value_head_dim": 4,
            **options,
        }
    )


def gpt_oss(num_experts=4, **options):
    return models.GptOssBackbone(
        **{
            **COMMON,
            "intermediate_dim": 6,
            "head_dim": 4,
            "num_experts": num_experts,
            "top_k": 2,
            **options,
        }
    )


def gemma4(num_experts=4, **options):
    return models.Gemma4Backbone(
        **{
            **COMMON,
            "image_size": 16,
            "intermediate_dim": 12,
            "head_dim": 4,
            "enable_moe_block": True,
            "num_experts": num_experts,
            "expert_intermediate_dim": 6,
            "num_experts_per_token": 2,
            **options,
        }
    )


BACKBONES = {
    "mixtral": mixtral,
    "qwen_moe": qwen_moe,
    "qwen3_moe": qwen3_moe,
    "qwen3_5_moe": qwen3_5_moe,
    "gpt_oss": gpt_oss,
    "gemma4": gemma4,
}


def randomize(model, scale=0.4, seed=0):
    """Gives every weight random values; biases and the experts of Gemma 4 start at 0."""
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        values = keras.ops.convert_to_numpy(weight).astype("float32")
        weight.assign(values + scale * generator.standard_normal(weight.shape).astype("float32"))
    return model


def inputs(model, batch=3, steps=7, seed=0, vocabulary=50):
    """A batch of token ids for a model; the last sentence has padding."""
    ids = np.random.default_rng(seed).integers(0, vocabulary, [batch, steps]).astype("int32")
    mask = np.ones([batch, steps], "int32")
    mask[-1, steps // 2 :] = 0
    batch = {"token_ids": ids, "padding_mask": mask}
    if "position_ids" in model.input:
        batch["position_ids"] = np.broadcast_to(np.arange(steps, dtype="int32"), ids.shape)
    return batch
