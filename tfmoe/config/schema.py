"""What a config can say, with every default. One class for each section.

`null` in a config is `None` here. Names (of data, blocks, gates, optimizers, schedules) stand for
registered things only.
"""

from typing import Annotated, Literal

import pydantic
from pydantic import Field

from tfmoe.config.gates import GATE_SECTIONS
from tfmoe.config.named import Section, one_of

AtLeastOne = Annotated[int, Field(ge=1)]
AtLeastZero = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Globs = Annotated[
    list[str], pydantic.BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
]
# Keras activations that act on each element by itself, as experts need.
Activation = Literal[
    "relu", "gelu", "silu", "tanh", "sigmoid", "elu", "selu", "leaky_relu", "relu6", "softplus",
    "softsign", "mish", "linear",
]  # fmt: skip


class Paper(Section):
    """The table row that a config stands for, and what the paper printed there.

    Keys:
        table, row: such as "Table 7" and "MoE-256".
        perplexity: on the test set.
        ops_per_timestep_millions: multiply-adds for a token, without embedding and softmax.
        parameters_millions: without embedding and softmax.
        total_billions: parameters with embedding and softmax.
        cv_importance, cv_load, max_over_mean_load: how evenly the experts were used (Table 6).
    """

    table: str
    row: str
    perplexity: Positive | None = None
    ops_per_timestep_millions: Positive | None = None
    parameters_millions: Positive | None = None
    total_billions: Positive | None = None
    cv_importance: NotNegative | None = None
    cv_load: NotNegative | None = None
    max_over_mean_load: Positive | None = None


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
            load.
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


Block = one_of(Lstm, MoE, FeedForward)


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


class Vocabulary(Section):
    """The words that have an id of their own.

    Keys:
        size: the most ids, `<S> </S> <UNK>` included; null for every word of the training text.
        min_count: words that occur less often in the training text are left out.
        file: a vocabulary to use instead of the training text's words; one word a line, `</S> <S>
            <UNK>` first.
    """

    size: Annotated[int, Field(ge=4)] | None = None
    min_count: AtLeastOne = 1
    file: str | None = None


class _LanguageData(Section):
    """What all data for language models have.

    Keys:
        vocabulary: see `Vocabulary`.
        batch_tokens: positions in a batch, padding included.
        max_length: the most steps in a row; longer sentences continue in the next row.
        shuffle_buffer: rows held for shuffling.
    """

    name: str
    vocabulary: Vocabulary = Vocabulary()
    batch_tokens: AtLeastOne = 8192
    max_length: AtLeastOne = 100
    shuffle_buffer: AtLeastOne = 100_000


class Text(_LanguageData):
    """Text files, one sentence a line, plain or gzip.

    Keys:
        train, valid, test: a path or glob, or a list of them; from the directory where the command
            is run.
    """

    name: Literal["text"] = "text"
    train: Annotated[Globs, Field(min_length=1)]
    valid: Globs = Field(default_factory=list)
    test: Globs = Field(default_factory=list)


class Lm1b(_LanguageData):
    """The 1 Billion Word benchmark.

    Keys:
        root: the directory that has `training-monolingual.tokenized.shuffled`.
    """

    name: Literal["lm1b"] = "lm1b"
    root: str


class EmbeddedWords(Section):
    """Words of each kind of embedded text, 0 for none; there may be fewer.

    Keys:
        english: prose of the installed packages' documentation.
        python: source code.
        languages: shared equally by the `languages`.
    """

    english: AtLeastZero = 1_000_000
    python: AtLeastZero = 1_500_000
    languages: AtLeastZero = 1_500_000


class EmbeddedText(_LanguageData):
    """The default corpus, made of text that is part of every installation.

    Keys:
        words: see `EmbeddedWords`.
        languages: CLDR locales.
        seed: of the corpus; the training has its own.
    """

    name: Literal["embedded_text"] = "embedded_text"
    words: EmbeddedWords = EmbeddedWords()
    languages: list[str] = Field(
        default_factory=lambda: ["de", "fr", "es", "ru", "it", "pl", "tr", "fi"]
    )
    seed: Seed = 0


class Grammars(_LanguageData):
    """A synthetic language of known entropy.

    Keys:
        grammars: number of latent grammars.
        symbols: words that all grammars share.
        successors: words that can follow each word in a grammar.
        length: symbols in a sentence.
        skew: how unlike the successors' probabilities are; 0 for equal.
        train_sentences, valid_sentences, test_sentences: numbers of sentences.
        seed: of the language; the training has its own.
    """

    name: Literal["grammars"] = "grammars"
    grammars: AtLeastOne = 256
    symbols: Annotated[int, Field(ge=2)] = 64
    successors: AtLeastOne = 4
    length: AtLeastOne = 29
    skew: NotNegative = 1.0
    train_sentences: AtLeastOne = 60_000
    valid_sentences: AtLeastOne = 1_000
    test_sentences: AtLeastOne = 2_000
    seed: Seed = 0


Data = one_of(Text, Lm1b, EmbeddedText, Grammars)


class Constant(Section):
    """The same learning rate at every step."""

    name: Literal["constant"] = "constant"


class WarmupInverseSqrt(Section):
    """Rises linearly to the optimizer's learning rate, stays, then falls as 1/√step.

    Keys:
        warmup_steps: steps of the rise.
        constant_steps: steps at the peak.
    """

    name: Literal["warmup_inverse_sqrt"] = "warmup_inverse_sqrt"
    warmup_steps: AtLeastOne = 1000
    constant_steps: AtLeastZero = 0


class CosineDecay(Section):
    """Rises linearly to the optimizer's learning rate, then falls along half a cosine. Not the
    paper's; better where the number of steps is known beforehand, and small.

    Keys:
        steps: of the rise and the fall together; afterwards the rate stays.
        warmup_steps: of the rise.
        final_fraction: of the highest rate, at the end.
    """

    name: Literal["cosine_decay"] = "cosine_decay"
    steps: AtLeastOne
    warmup_steps: AtLeastZero = 0
    final_fraction: Fraction = 0.0


class _Optimizer(Section):
    """What all optimizers have.

    Keys:
        learning_rate: the highest of the schedule.
        schedule: see `WarmupInverseSqrt`, `CosineDecay` and `Constant`.
        clip_norm: the most that the norm of one variable's gradient may be; null for no limit.
        global_clip_norm: the most that the norm of all gradients together may be. One of the two at
            most.
    """

    name: str
    learning_rate: Positive = 1e-3
    schedule: one_of(Constant, WarmupInverseSqrt, CosineDecay, default="constant") = Constant()
    clip_norm: Positive | None = None
    global_clip_norm: Positive | None = None


class Adam(_Optimizer):
    """Keras' Adam.

    Keys:
        beta_1, beta_2, epsilon: Adam's own.
    """

    name: Literal["adam"] = "adam"
    beta_1: Fraction = 0.9
    beta_2: Fraction = 0.999
    epsilon: Positive = 1e-7


class FactoredAdam(_Optimizer):
    """Adam with two vectors in place of two matrices of slots for each matrix of the experts
    (`tfmoe.optimizers.FactoredAdam`).

    Keys:
        beta_1: of the variables that are not factored.
        beta_2, epsilon: of all.
        factored: experts; matrices, for all variables of rank 2 and more; none; or a list of
            fragments of paths, such as [experts/kernel, embedding].
        factored_beta_1: of the factored variables; above 0 they keep a full first moment.
    """

    name: Literal["factored_adam"] = "factored_adam"
    beta_1: Fraction = 0.9
    beta_2: Fraction = 0.999
    epsilon: Positive = 1e-7
    factored: object = "experts"  # the optimizer knows its rules
    factored_beta_1: Fraction = 0.0


class FactoredAdagrad(_Optimizer):
    """Adagrad with two vectors in place of a matrix of slots for each matrix of the experts
    (`tfmoe.optimizers.FactoredAdagrad`).

    Keys:
        initial_accumulator_value: where the sums of squared gradients begin.
        epsilon: Adagrad's own.
        factored: as of `FactoredAdam`.
    """

    name: Literal["factored_adagrad"] = "factored_adagrad"
    initial_accumulator_value: NotNegative = 0.1
    epsilon: Positive = 1e-7
    factored: object = "experts"  # the optimizer knows its rules


Optimizer = one_of(Adam, FactoredAdam, FactoredAdagrad, default="adam")


class Training(Section):
    """How to train.

    Keys:
        seed: of initial weights, dropout, noise and the order of batches.
        epochs: how many.
        steps_per_epoch: batches in an epoch; null for one full pass over the training text.
        optimizer: see `Adam`, `FactoredAdam` and `FactoredAdagrad`.
        dtype_policy: `mixed_bfloat16` keeps variables and gates in float32.
        jit_compile: whether XLA compiles the training step.
        validation_batches: at the end of an epoch; null for all.
        checkpoint_every_steps: null for the end of every epoch only.
    """

    seed: Seed = 0
    epochs: AtLeastOne = 10
    steps_per_epoch: AtLeastOne | None = None
    optimizer: Optimizer = Adam()
    dtype_policy: Literal["float32", "mixed_bfloat16"] = "float32"
    jit_compile: bool = False
    validation_batches: AtLeastOne | None = None
    checkpoint_every_steps: AtLeastOne | None = None


class Config(Section):
    """A whole config: a model, its data, its training, and the table row it stands for, if any."""

    paper: Paper | None = None
    model: LanguageModel
    data: Data
    training: Training = Training()
