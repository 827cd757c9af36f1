"""Small models, shared by the tests of memory."""

from tfmoe.gating import Batchwise, NoisyTopK, Softmax
from tfmoe.layers import AttentionLSTM, FeedForward, MoE, ProjectedLSTM
from tfmoe.models import LanguageModel, TranslationModel, residual_blocks


def lstm(*widths):
    return ProjectedLSTM(*widths, return_sequences=True)


def language_model(*layers, dropout=0.0, num_sampled=None):
    blocks = residual_blocks(layers, dropout=dropout)
    return LanguageModel(11, 4, blocks, dropout=dropout, num_sampled=num_sampled)


def translation_model(encoder, decoder, dropout=0.0):
    encoder, decoder = (residual_blocks(layers, dropout=dropout) for layers in (encoder, decoder))
    return TranslationModel(11, 4, encoder, decoder, dropout=dropout)


MODELS = [
    lambda: language_model(lstm(8, 4), FeedForward(6, use_bias=True, depth=2), FeedForward(5)),
    lambda: language_model(MoE(6, 5, depth=2, use_bias=True, gate=NoisyTopK(k=2))),
    lambda: language_model(
        MoE(12, 5, groups=3, gate=NoisyTopK(k=2)), lstm(4), MoE(3, 5, gate=Softmax())
    ),
    lambda: translation_model(
        [lstm(8, 4), MoE(6, 5, gate=Batchwise(k=2)), lstm(4)],
        [AttentionLSTM(8, 4, 3), MoE(12, 5, groups=3, gate=Batchwise(k=2)), FeedForward(5)],
    ),
    lambda: translation_model([lstm(4)], [AttentionLSTM(4, attention="additive"), lstm(4)]),
]
