"""The section `model`."""

from typing import Annotated, Literal

from pydantic import Field

from tfmoe.config.gates import GATE_SECTIONS
from tfmoe.config.named import Section, one_of
from tfmoe.config.number_types import AtLeastOne, Fraction, NotNegative, Positive

# Keras activations that act on each element by itself, as experts need.
Activation = Literal[
    "relu", "gelu", "silu", "tanh", "sigmoid", "elu", "selu", "leaky_relu", "relu6", "softplus",
    "softsign", "mish", "linear",
]  # fmt: skip


class Lstm(Section):
    """An LSTM block (`tfmoe.layers.ProjectedLSTM`).

    Keys:
        units: width of the memory cell.
        projection_units: width of the output, which is also what recurs; null for `units`, without
            a projection.
    """

    name: Literal["lstm"] = "lstm"
    units: AtLeastOne
    projection_units: AtLeastOne | None = None


class MoE(Section):
    """A mixture of experts (`tfmoe.layers.MoE`).

    Keys:
        num_experts: n.
        hidden_units: width of an expert's hidden layers.
        gate: name and arguments of a gate of `tfmoe.gating.GATES`.
        groups: null for a flat mixture, or the first-level branching factor of a hierarchical one.
        depth: hidden layers of an expert.
        activation: of the hidden layers.
        use_bias: whether experts have biases.
        recompute: whether hidden activations are computed again in the backward pass instead of
            kept.
        capacity_factor: null drops nothing; otherwise an expert takes at most this times the mean
            load of a training batch.
        evaluation_capacity_factor: the same outside of training.
        capacity_priority: which tokens an expert keeps: the first in the batch (position), first
            choices before second ones (choice), or those with the largest gate values (weight).
    """

    name: Literal["moe"] = "moe"
    num_experts: AtLeastOne
    hidden_units: AtLeastOne
    gate: one_of(*GATE_SECTIONS.values(), default="noisy_top_k") = GATE_SECTIONS["noisy_top_k"]()
    groups: AtLeastOne | None = None
    depth: AtLeastOne = 1
    activation: Activation = "relu"
    use_bias: bool = False
    recompute: bool = False
    capacity_factor: Positive | None = None
    evaluation_capacity_factor: Positive | None = None
    capacity_priority: Literal["position", "choice", "weight"] = "position"


class FeedForward(Section):
    """A dense network, the baseline of a mixture (`tfmoe.layers.FeedForward`).

    Keys:
        hidden_units, depth, activation, use_bias: as of one expert.
    """

    name: Literal["feed_forward"] = "feed_forward"
    hidden_units: AtLeastOne
    depth: AtLeastOne = 1
    activation: Activation = "relu"
    use_bias: bool = False


class AttentionLstm(Section):
    """An LSTM block that feeds the attention and is fed by it (`tfmoe.layers.AttentionLSTM`), for
    the first place of a decoder.

    Keys:
        units, projection_units: as of an LSTM block.
        attention: multiplicative (eq 22) or additive (eq 21).
        attention_units: width of the attention's own space; null for that of the block's output.
    """

    name: Literal["attention_lstm"] = "attention_lstm"
    units: AtLeastOne
    projection_units: AtLeastOne | None = None
    attention: Literal["multiplicative", "additive"] = "multiplicative"
    attention_units: AtLeastOne | None = None


Block = one_of(Lstm, MoE, FeedForward)
DecoderBlock = one_of(Lstm, MoE, FeedForward, AttentionLstm)


class LanguageModel(Section):
    """`tfmoe.models.LanguageModel`: embedding, residual blocks, softmax.

    Keys:
        d_model: width of the embedding and of every block's output.
        dropout: probability of dropping an element of the embedding and of every block's output
            (DropProb).
        num_sampled: draws for the sampled softmax in training; null for the full one.
        blocks: in order, each with its name and arguments.
    """

    name: Literal["language_model"] = "language_model"
    d_model: AtLeastOne
    dropout: Fraction = 0.0
    num_sampled: AtLeastOne | None = None
    blocks: Annotated[list[Block], Field(min_length=1)]


class Decoding(Section):
    """Beam search (`tfmoe.models.TranslationModel.translate`).

    Keys:
        beam_size: hypotheses that are followed; 1 is greedy search if both penalties are 0.
        length_penalty, coverage_penalty: α and β of Wu et al. 2016.
        batch_sentences: sentences translated together.
    """

    beam_size: AtLeastOne = 4
    length_penalty: NotNegative = 0.2
    coverage_penalty: NotNegative = 0.2
    batch_sentences: AtLeastOne = 64


class Translation(Section):
    """`tfmoe.models.TranslationModel`: encoder, attention, decoder, softmax.

    Keys:
        d_model: width of the embedding and of every block's output.
        dropout: probability of dropping an element of the embedding and of every block's output
            (DropProb).
        num_sampled: draws for the sampled softmax in training; null for the full one.
        encoder: blocks in order, each with its name and arguments.
        decoder: likewise; the first is an attention_lstm, the others are not.
        decoding: how to translate; see `Decoding`.
    """

    name: Literal["translation"] = "translation"
    d_model: AtLeastOne
    dropout: Fraction = 0.0
    num_sampled: AtLeastOne | None = None
    encoder: Annotated[list[Block], Field(min_length=1)]
    decoder: Annotated[list[DecoderBlock], Field(min_length=1)]
    decoding: Decoding = Decoding()
