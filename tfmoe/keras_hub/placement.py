"""Where KerasHub creates the layers with experts, and on which devices their experts are."""

from typing import NamedTuple

import tensorflow as tf

from tfmoe.distribute import is_mixed
from tfmoe.distribute.keras_optimizer import is_sharded
from tfmoe.keras_hub.registry import sparse_class_of

MODELS = "keras_hub.src.models"


class Builders(NamedTuple):
    """The classes of KerasHub whose `build` creates a mixture.

    Attributes:
        bank: name of the class, with its module, whose `build` creates the experts' variables, all
            of them with experts as the first axis, and no others.
        whole: name of the class, with its module, after whose `build` the mixture is complete:
            router, bank, and the layer around if the mixture needs it.
    """

    bank: str
    whole: str


BUILDERS = [
    Builders(
        f"{MODELS}.mixtral.mixtral_decoder.MixtralMoeExperts",
        f"{MODELS}.mixtral.mixtral_decoder.MixtralSparseMoeBlock",
    ),
    Builders(
        f"{MODELS}.qwen_moe.qwen_moe_decoder.QwenMoeExperts",
        f"{MODELS}.qwen_moe.qwen_moe_decoder.QwenSparseMoeBlock",
    ),
    Builders(
        f"{MODELS}.qwen3_moe.qwen3_moe_decoder.Qwen3MoeExperts",
        f"{MODELS}.qwen3_moe.qwen3_moe_decoder.Qwen3SparseMoeBlock",
    ),
    Builders(
        f"{MODELS}.qwen3_5_moe.qwen3_5_moe_decoder.Qwen3_5MoeExperts",
        f"{MODELS}.qwen3_5_moe.qwen3_5_moe_decoder.Qwen3_5MoeSparseMoeBlock",
    ),
    Builders(
        f"{MODELS}.gpt_oss.gpt_oss_decoder.GptOssExperts",
        f"{MODELS}.gpt_oss.gpt_oss_decoder.GptOssSparseMoeBlock",
    ),
    Builders(
        f"{MODELS}.gemma4.gemma4_moe.Gemma4MoEBlock",
        f"{MODELS}.gemma4.gemma4_decoder_block.Gemma4TextDecoderBlock",
    ),
]


def check_sparsifiable(model, layers):
    """Raises a `ValueError` if every replica of a `MixedStrategy` holds all experts.

    Args:
        model: the model, for the error.
        layers: KerasHub's layers with experts.
    """
    strategy = getattr(model, "distribute_strategy", None) or tf.distribute.get_strategy()
    if not is_mixed(strategy) or strategy.num_replicas_in_sync == 1:
        return
    whole = [layer.name for layer in layers if not has_shards(bank_of(layer))]
    if whole:
        raise ValueError(
            f"every device holds all experts of {', '.join(whole)}: a MixedStrategy needs a model "
            "that is created in `with strategy.scope(), tfmoe.keras_hub.sparse_models():`, which "
            "is sparse without sparsify"
        )


def check_densifiable(model, layers):
    """Raises a `ValueError` if experts are sharded: KerasHub needs all of them on every device.

    Args:
        model: the model, for the error.
        layers: sparse layers.
    """
    if any(has_shards(layer.bank() or layer) for layer in layers):
        raise ValueError(
            f"{model.name} cannot become dense: each device holds a part of its experts; "
            "tfmoe.distribute.on_one_device(model) returns a dense copy with all of them"
        )


def bank_of(layer):
    """The layer with the experts' variables, for KerasHub's layer with experts."""
    return sparse_class_of(layer).bank(layer) or layer


def has_shards(bank):
    """Whether the variables of a bank are sharded over two or more devices."""
    variables = [weight.value for weight in bank.weights]
    return any(is_sharded(variable) and len(variable.bounds) > 1 for variable in variables)
