"""The section `model`. The keys of a model or a block are the arguments of its class, documented
there.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import keras
from pydantic import BeforeValidator, Field

from tfmoe.config.gates import GATE_SECTIONS
from tfmoe.config.named import Section, item_type, one_of, sections_of
from tfmoe.config.number_types import (
    LAYER_FIELDS,
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Width,
)
from tfmoe.config.sections import section_of
from tfmoe.layers import BLOCKS
from tfmoe.layers.expert_metrics import metrics_mode
from tfmoe.layers.normalization import EPSILON, Norm
from tfmoe.models import LanguageModel, TranslationModel

Gate = one_of(*GATE_SECTIONS.values(), default="noisy_top_k")
# Keras' elementwise activations, as experts need.
ActivationName = Literal[
    "relu", "gelu", "silu", "tanh", "sigmoid", "elu", "selu", "leaky_relu", "relu6", "softplus",
    "softsign", "mish", "linear",
]  # fmt: skip
# Runs of earlier versions have `true` and `false`.
Metrics = Annotated[
    Literal["all", "summary"] | None,
    BeforeValidator(lambda value: metrics_mode(value) if isinstance(value, bool) else value),
]
# Types of arguments that also take objects; and defaults: tables, plots and `tfmoe doctor` need the
# metrics of every mixture.
BLOCK_FIELDS = {
    **LAYER_FIELDS,
    "gate": (Gate, GATE_SECTIONS["noisy_top_k"]()),
    "activation": ActivationName,
    "metrics": (Metrics, "all"),
}


def needs_memory(layer):
    """Whether a layer reads the source, so that only a decoder can have it as a block."""
    return getattr(layer, "needs_memory", False)


def more_block_keys(layer):
    """Keys of every block, in addition to its layer's arguments: those of `tfmoe.layers.Residual`.

    Args:
        layer: the layer's class.
    """
    return {
        "residual": (bool, True, "whether the block's input is added to its output."),
        "norm": (
            Norm | None,
            None,
            "normalization of the layer's input: rms (RMSNorm), layer (LayerNorm) or null. "
            "Transformers have one in every block.",
        ),
        "norm_epsilon": (
            PositiveFloat,
            EPSILON,
            "added to the mean square or the variance of the normalization.",
        ),
        "output_activation": (
            ActivationName | None,
            getattr(layer, "residual_activation", None),
            "activation of the layer's output, before dropout and the addition of the input; null "
            "for none. The paper has a sigmoid after mixtures and feed-forward networks, "
            "Transformers have none.",
        ),
    }


BLOCK_SECTIONS = {
    name: section_of(
        layer,
        name,
        base=keras.layers.Layer,
        leave_out=("output_units", *getattr(layer, "BLOCK_ARGUMENTS", ())),  # it keeps the width
        fields=BLOCK_FIELDS,
        more=more_block_keys(layer),
    )
    for name, layer in BLOCKS.items()
}
Block = one_of(*(BLOCK_SECTIONS[name] for name in BLOCKS if not needs_memory(BLOCKS[name])))
DecoderBlock = one_of(*BLOCK_SECTIONS.values())
MAX_BLOCKS = 200  # of a list
Blocks = Annotated[list[Block], Field(min_length=1, max_length=MAX_BLOCKS)]
DecoderBlocks = Annotated[list[DecoderBlock], Field(min_length=1, max_length=MAX_BLOCKS)]


class Decoding(Section):
    """Beam search (`tfmoe.models.TranslationModel.translate`).

    Keys:
        beam_size: number of hypotheses kept per step.
        length_penalty: α of Wu et al. 2016.
        coverage_penalty: β of Wu et al. 2016.
        pruning: hypotheses that score more than this below the best are dropped (Wu et al.: 3.0);
            null for no pruning.
        batch_sentences: number of sentences translated together.
    """

    beam_size: PositiveInt = 4
    length_penalty: NonNegativeFloat = 0.2
    coverage_penalty: NonNegativeFloat = 0.2
    pruning: PositiveFloat | None = None
    batch_sentences: PositiveInt = 64


MODELS = {"language_model": LanguageModel, "translation": TranslationModel}
MODEL_FIELDS = {
    "d_model": Width,
    "dropout": Fraction,
    "num_sampled": PositiveInt | None,
    "blocks": Blocks,
    "encoder": Blocks,
    "decoder": DecoderBlocks,
}
# Keys that are not arguments of the model's class.
MORE_KEYS = {
    "translation": {
        "decoding": (
            Decoding,
            Decoding(),
            "beam search, a mapping with the keys beam_size, length_penalty, coverage_penalty, "
            "pruning and batch_sentences.",
        )
    }
}
MODEL_SECTIONS = {
    name: section_of(
        model,
        name,
        base=keras.Model,
        leave_out=("vocabulary_size", "seed"),
        fields=MODEL_FIELDS,
        more=MORE_KEYS.get(name),
    )
    for name, model in MODELS.items()
}
if TYPE_CHECKING:  # the union is only known at run time
    Model = Any
else:
    Model = one_of(*MODEL_SECTIONS.values(), default="language_model")


def block_lists(section):
    """The keys of a model's section that are lists of blocks, in order."""
    blocks = set(BLOCK_SECTIONS.values())
    fields = section.model_fields.items()
    return [key for key, info in fields if blocks & {*sections_of(item_type(info.annotation))}]


def block_prefix(key):
    """The prefix of the names of layers in the list of blocks at a key."""
    return "" if key == "blocks" else f"{key}_"
