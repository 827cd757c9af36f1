"""Reads a checkpoint into a language model."""

import os
import pathlib

import keras

from tfmoe.distribute.tensorflow_internals import deferred_variables
from tfmoe.gating import TopK
from tfmoe.huggingface.configuration import read_configuration
from tfmoe.huggingface.files import TensorFiles
from tfmoe.huggingface.shape import Shape
from tfmoe.huggingface.tensors import HEAD, entries_of
from tfmoe.layers import FeedForward, MoE, SelfAttention
from tfmoe.models import LanguageModel, residual_blocks

# Tensors of old versions, which the configuration determines.
COMPUTED = ("rotary_emb.inv_freq",)


def load_model(folder: str | os.PathLike, dtype: str | None = None) -> LanguageModel:
    """Reads a checkpoint of Mixtral or Qwen3-MoE, as `save_pretrained` of Hugging Face Transformers
    writes it.

    The folder has `config.json`, and `model.safetensors` or several such files with
    `model.safetensors.index.json`. Nothing else is read; ids of words are those of the checkpoint's
    tokenizer. Logits equal those of Transformers, `model.word_logits(model(tokens))`, with one
    exception: in models of tfmoe the id 0 is padding, which no position attends to.

    In the scope of a `MixedStrategy` the experts are sharded. With several workers every worker
    reads the folder.

    Args:
        folder: of the checkpoint.
        dtype: the model's dtype policy, such as `"float32"`, `"bfloat16"` (weights too) or
            `"mixed_bfloat16"`; `None` for Keras' global policy.

    Returns:
        A built `tfmoe.models.LanguageModel` of blocks of self-attention and mixtures or dense
        networks, without dropout. Its gates have the checkpoint's balancing loss:
        `router_aux_loss_coef`, which Transformers applies to all mixtures together, applies to each
        mixture.

    Raises:
        FileNotFoundError: if a file is missing.
        tfmoe.extras.MissingExtra: without the package safetensors.
        ValueError: if `config.json` has a feature that tfmoe lacks, or names other tensors or
            shapes than the files have.
    """
    folder = pathlib.Path(folder)
    shape = read_configuration(folder)
    with TensorFiles(folder) as files:
        check_tensors(files, shape)
        model = model_of(shape, dtype)
        model.build((None, None))
        for entry in entries_of(model, shape):
            entry.variable.assign(entry.value(files.read))
    return model


def check_tensors(files: TensorFiles, shape: Shape):
    """Checks the names and shapes of the tensors of a checkpoint, without allocating the model.

    Raises:
        ValueError: see `TensorFiles.check`.
    """
    with deferred_variables():
        model = model_of(shape)
        model.build((None, None))
        entries = list(entries_of(model, shape))
    shapes = {name: entry.stored_shape() for entry in entries for name in entry.all_names()}
    files.check(shapes, ignored=(*COMPUTED, HEAD) if shape.tie_embeddings else COMPUTED)


def model_of(shape: Shape, dtype: str | None = None) -> LanguageModel:
    """Makes the language model of a `Shape`, not built.

    Args:
        shape: of the model.
        dtype: as for `load_model`.

    Raises:
        ValueError: if sizes do not fit together.
    """
    global_policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype or global_policy)
    try:
        layers = []
        for index, has_mixture in enumerate(shape.has_mixture):
            layers.append(attention_of(shape, f"self_attention_{2 * index}"))
            make = mixture_of if has_mixture else dense_network_of
            layers.append(make(shape, 2 * index + 1))
        return LanguageModel(
            shape.vocabulary_size,
            shape.d_model,
            residual_blocks(layers, norm="rms", norm_epsilon=shape.epsilon, activation=None),
            final_norm="rms",
            final_norm_epsilon=shape.epsilon,
            softmax_bias=False,
            tie_embeddings=shape.tie_embeddings,
            name="language_model",
        )
    finally:
        keras.config.set_dtype_policy(global_policy)


def attention_of(shape, name):
    """The `SelfAttention` of a layer."""
    norm = {}
    if shape.family.normalizes_queries:
        norm = {"query_key_norm": "rms", "query_key_norm_epsilon": shape.epsilon}
    return SelfAttention(
        shape.num_heads,
        shape.num_key_value_heads,
        shape.head_units,
        rotary_base=shape.rotary_base,
        use_bias=shape.projection_biases,
        sliding_window=shape.sliding_window,
        name=name,
        **norm,
    )


def mixture_of(shape, index):
    """The `MoE` of a layer."""
    gate = TopK(shape.k, renormalize=shape.renormalize, balance_weight=shape.balance_weight)
    return MoE(
        shape.num_experts,
        shape.expert_units,
        gate=gate,
        activation=shape.activation,
        gated=True,
        name=f"moe_{index}",
    )


def dense_network_of(shape, index):
    """The `FeedForward` of a layer without a mixture."""
    return FeedForward(
        shape.dense_units,
        activation=shape.activation,
        gated=True,
        name=f"feed_forward_{index}",
    )
