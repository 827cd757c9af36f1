"""Small Transformers with large random weights, which make any unwanted dependency visible."""

import keras
import numpy as np

from tfmoe.gating import NoisyTopK
from tfmoe.layers import CrossAttention, FeedForward, MoE, SelfAttention
from tfmoe.models import LanguageModel, TranslationModel, residual_blocks

D = 8


def moe(name):
    return MoE(4, 6, gate=NoisyTopK(k=2, importance_weight=0.1), name=name)


def blocks(layers, norm="rms"):
    return residual_blocks(layers, norm=norm, activation=None)


def randomised(model):
    model.build((None, None))
    rng = np.random.default_rng(3)
    for weight in model.trainable_weights:
        values = rng.standard_normal(weight.shape) * 0.7
        if weight.name in ("scale", "gamma"):
            values = 1 + 0.3 * values
        weight.assign(values)
    return model


def language_model(vocabulary_size=13, norm="rms"):
    keras.utils.set_random_seed(1)
    layers = [
        SelfAttention(4, 2, name="attention_1"),
        moe("moe_1"),
        moe("moe_2"),
        SelfAttention(1, name="attention_2"),
        FeedForward(16, activation="gelu", name="feed_forward"),
    ]
    return LanguageModel(vocabulary_size, D, blocks(layers, norm), seed=1, final_norm=norm)


def translation_model(vocabulary_size=13):
    keras.utils.set_random_seed(1)
    encoder = [SelfAttention(2, causal=False, name="encoder_attention"), moe("encoder_moe")]
    decoder = [
        FeedForward(16, name="first"),
        SelfAttention(4, 2, name="self_attention_1"),
        CrossAttention(2, name="cross_attention_1"),
        moe("decoder_moe"),
        SelfAttention(2, name="self_attention_2"),
        CrossAttention(2, 1, name="cross_attention_2"),
    ]
    return TranslationModel(
        vocabulary_size, D, blocks(encoder), blocks(decoder), seed=1, final_norm="layer"
    )
