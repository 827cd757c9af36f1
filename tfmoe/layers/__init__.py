"""Keras layers: the mixture of experts, its dense baseline, and the layers around them."""

from tfmoe.layers.attention import Attention
from tfmoe.layers.attention_lstm import AttentionLSTM
from tfmoe.layers.block import Block
from tfmoe.layers.cross_attention import CrossAttention
from tfmoe.layers.experts import Experts
from tfmoe.layers.feed_forward import FeedForward
from tfmoe.layers.lstm import ProjectedLSTM, ProjectedLSTMCell
from tfmoe.layers.moe import MoE
from tfmoe.layers.moe_lstm import MoELSTM
from tfmoe.layers.multi_gate_moe import MultiGateMoE
from tfmoe.layers.residual import Residual
from tfmoe.layers.self_attention import SelfAttention
from tfmoe.layers.soft_moe import SoftMoE
from tfmoe.layers.vocabulary_softmax import VocabularySoftmax

# The blocks of models, by their names in configs.
BLOCKS = {
    "lstm": ProjectedLSTM,
    "moe": MoE,
    "feed_forward": FeedForward,
    "soft_moe": SoftMoE,
    "attention_lstm": AttentionLSTM,
    "self_attention": SelfAttention,
    "cross_attention": CrossAttention,
    "moe_lstm": MoELSTM,
}

__all__ = [
    "BLOCKS",
    "Attention",
    "AttentionLSTM",
    "Block",
    "CrossAttention",
    "Experts",
    "FeedForward",
    "MoE",
    "MoELSTM",
    "MultiGateMoE",
    "ProjectedLSTM",
    "ProjectedLSTMCell",
    "Residual",
    "SelfAttention",
    "SoftMoE",
    "VocabularySoftmax",
]
