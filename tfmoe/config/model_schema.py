"""The section `model`. The keys of a model and of a block are the arguments of its constructor,
and are documented there.
"""

import inspect
from typing import Annotated, Literal

import keras
from pydantic import Field

from tfmoe.config.gates import GATE_SECTIONS
from tfmoe.config.named import Section, item_type, one_of, sections_of
from tfmoe.config.number_types import (
    LAYER_FIELDS,
    AtLeastOne,
    Fraction,
    NotNegative,
    Positive,
    Width,
)
from tfmoe.config.sections import section_of
from tfmoe.layers import BLOCKS
from tfmoe.models import LanguageModel, TranslationModel

Gate = one_of(*GATE_SECTIONS.values(), default="noisy_top_k")
# What a config says where a constructor also takes objects. Activations are those of Keras that act
# on each element by itself, as experts need.
BLOCK_FIELDS = {
    **LAYER_FIELDS,
    "gate": (Gate, GATE_SECTIONS["noisy_top_k"]()),
    "activation": Literal[
        "relu", "gelu", "silu", "tanh", "sigmoid", "elu", "selu", "leaky_relu", "relu6", "softplus",
        "softsign", "mish", "linear",
    ],
}  # fmt: skip


def needs_memory(layer):
    """Whether a layer reads the source, so that it can only be a block of a decoder."""
    return getattr(layer, "needs_memory", False)


# What every block has beside its layer's arguments.
MORE_BLOCK_KEYS = {"residual": (bool, True)}
ABOUT_MORE_BLOCK_KEYS = """

Keys of every block:
    residual: whether the block's input is added to its output (`tfmoe.layers.Residual`).
"""

BLOCK_SECTIONS = {
    name: section_of(
        layer,
        name,
        base=keras.layers.Layer,
        leave_out=getattr(layer, "BLOCK_ARGUMENTS", ()),
        fields=BLOCK_FIELDS,
        more=MORE_BLOCK_KEYS,
        doc=inspect.cleandoc(layer.__doc__ or "") + ABOUT_MORE_BLOCK_KEYS,
    )
    for name, layer in BLOCKS.items()
}
Block = one_of(*(BLOCK_SECTIONS[name] for name in BLOCKS if not needs_memory(BLOCKS[name])))
DecoderBlock = one_of(*BLOCK_SECTIONS.values())
MOST_BLOCKS = 200  # in a list
Blocks = Annotated[list[Block], Field(min_length=1, max_length=MOST_BLOCKS)]
DecoderBlocks = Annotated[list[DecoderBlock], Field(min_length=1, max_length=MOST_BLOCKS)]


class Decoding(Section):
    """Beam search (`tfmoe.models.TranslationModel.translate`).

    Keys:
        beam_size: hypotheses that are followed.
        length_penalty, coverage_penalty: α and β of Wu et al. 2016.
        pruning: how far below the best a hypothesis may be: 3.0 is that of Wu et al.; null for no
            pruning.
        batch_sentences: sentences translated together.
    """

    beam_size: AtLeastOne = 4
    length_penalty: NotNegative = 0.2
    coverage_penalty: NotNegative = 0.2
    pruning: Positive | None = None
    batch_sentences: AtLeastOne = 64


MODELS = {"language_model": LanguageModel, "translation": TranslationModel}
MODEL_FIELDS = {
    "d_model": Width,
    "dropout": Fraction,
    "num_sampled": AtLeastOne | None,
    "blocks": Blocks,
    "encoder": Blocks,
    "decoder": DecoderBlocks,
}
# Keys that are not arguments of a constructor.
MORE_KEYS = {"translation": {"decoding": (Decoding, Decoding())}}
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
Model = one_of(*MODEL_SECTIONS.values(), default="language_model")


def block_lists(section):
    """The keys of a model's section that hold lists of blocks, in order."""
    blocks = set(BLOCK_SECTIONS.values())
    fields = section.model_fields.items()
    return [key for key, info in fields if blocks & {*sections_of(item_type(info.annotation))}]


def block_prefix(key):
    """What the names of the blocks in a list of this key begin with."""
    return "" if key == "blocks" else f"{key}_"
