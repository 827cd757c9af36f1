"""Small models without mixtures, and padded batches for them."""

import numpy as np

from tfmoe.layers import (
    AttentionLSTM,
    CrossAttention,
    FeedForward,
    ProjectedLSTM,
    SelfAttention,
)
from tfmoe.models import LanguageModel, TranslationModel, residual_blocks

V, D = 23, 8
OF_TRANSFORMERS = {"norm": "rms", "activation": None}


def lstm_language_model(**options):
    layers = [
        ProjectedLSTM(12, D, return_sequences=True, name="lstm"),
        FeedForward(16, name="feed_forward"),
    ]
    return language_model(layers, {}, **options)


def transformer_language_model(**options):
    layers = [
        SelfAttention(4, 2, query_key_norm="rms", sliding_window=3, name="attention"),
        FeedForward(16, activation="gelu", gated=True, name="feed_forward"),
    ]
    return language_model(layers, OF_TRANSFORMERS, final_norm="rms", **options)


def language_model(layers, of_blocks, dropout=0.1, **options):
    blocks = residual_blocks(layers, dropout=dropout, seed=1, **of_blocks)
    return LanguageModel(V, D, blocks, dropout=dropout, seed=5, **options)


def lstm_translation_model(**options):
    encoder = [ProjectedLSTM(12, D, return_sequences=True, name="encoder_lstm")]
    decoder = [AttentionLSTM(12, D, name="decoder_lstm")]
    return translation_model(encoder, decoder, {}, **options)


def transformer_translation_model(**options):
    encoder = [SelfAttention(2, causal=False, name="encoder_attention")]
    decoder = [SelfAttention(2, name="attention"), CrossAttention(2, name="cross_attention")]
    return translation_model(encoder, decoder, OF_TRANSFORMERS, final_norm="layer", **options)


def translation_model(encoder, decoder, of_blocks, dropout=0.1, **options):
    encoder = residual_blocks(encoder, dropout=dropout, seed=1, **of_blocks)
    decoder = residual_blocks(decoder, dropout=dropout, seed=3, **of_blocks)
    return TranslationModel(V, D, encoder, decoder, dropout=dropout, seed=5, **options)


def randomised(model, seed=0):
    """The model, built, with large random weights."""
    model.build((None, None))
    rng = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        weight.assign(weight + 0.5 * rng.standard_normal(weight.shape))
    return model


def sentences(rows, steps, seed=0):
    """Tokens `[rows, steps]` and targets of sentences, one of full length, with padding."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, V, (rows, steps + 1)).astype("int32")
    lengths = rng.integers(2, steps + 1, rows)
    lengths[0] = steps
    is_word = np.arange(steps) < lengths[:, None]
    targets = np.where(np.arange(steps) == lengths[:, None] - 1, 0, tokens[:, 1:])
    tokens[:, 0] = 1
    return tokens[:, :-1] * is_word, (targets * is_word).astype("int32")


def batch_of(model, rows=6, steps=5):
    """The inputs and targets of a batch for a language or a translation model."""
    tokens, targets = sentences(rows, steps)
    if isinstance(model, TranslationModel):
        return (sentences(rows, steps + 2, seed=1)[0], tokens), targets
    return tokens, targets
