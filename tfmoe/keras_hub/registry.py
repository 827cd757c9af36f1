"""The KerasHub layers with experts that can be computed sparsely."""

from tfmoe.keras_hub.block import SparseMixture
from tfmoe.keras_hub.gemma4 import SparseGemma4
from tfmoe.keras_hub.gpt_oss import SparseGptOss
from tfmoe.keras_hub.mixtral import SparseMixtral
from tfmoe.keras_hub.qwen3_5_moe import SparseQwen3_5Moe
from tfmoe.keras_hub.qwen3_moe import SparseQwen3Moe
from tfmoe.keras_hub.qwen_moe import SparseQwenMoe

# The names that users know, in the order of the documentation.
FAMILIES: dict[str, type[SparseMixture]] = {
    "Mixtral": SparseMixtral,
    "Qwen-MoE": SparseQwenMoe,
    "Qwen3-MoE": SparseQwen3Moe,
    "Qwen3.5-MoE": SparseQwen3_5Moe,
    "gpt-oss": SparseGptOss,
    "Gemma 4": SparseGemma4,
}
SPARSE_CLASSES = {mixture.replaces: mixture for mixture in FAMILIES.values()}


def sparse_class_of(layer) -> type[SparseMixture] | None:
    """The mixin for a layer's class; `None` if the layer's class is none of `FAMILIES`.

    Args:
        layer: a Keras layer.
    """
    return SPARSE_CLASSES.get(f"{type(layer).__module__}.{type(layer).__qualname__}")
