"""Writes a language model as a checkpoint."""

import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfmoe import extras
from tfmoe.data_pipelines.atomic_write import atomic_folder
from tfmoe.distribute.full_disks import full_disk_named
from tfmoe.distribute.workers import is_mixed, num_workers
from tfmoe.huggingface.configuration import CONFIG, configuration_of
from tfmoe.huggingface.description import shape_of
from tfmoe.huggingface.files import DTYPES, write_tensors
from tfmoe.huggingface.tensors import entries_of
from tfmoe.models import LanguageModel
from tfmoe.ops.arguments import one_of, positive

MAX_FILE_BYTES = 5_000_000_000


def save_model(
    model: LanguageModel,
    folder: str | os.PathLike,
    dtype: str | None = None,
    more: Mapping[str, Any] | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> pathlib.Path:
    """Writes a language model as a checkpoint for `from_pretrained` of Hugging Face Transformers:
    `config.json` and `model.safetensors`, or several such files with an index.

    A model with `query_key_norm` becomes a checkpoint of Qwen3-MoE, one without it of Mixtral. The
    folder appears when it is complete. It has no tokenizer. What matters for training only, such as
    dropout, capacities, or the z-loss, is not stored.

    The model of a `MixedStrategy` is written with all experts; variables are gathered one at a
    time.

    Args:
        model: a built `tfmoe.models.LanguageModel` that Mixtral or Qwen3-MoE can hold: blocks of
            self-attention, each followed by a mixture (`gated`, with the gate `TopK`) or a dense
            network, all with `norm="rms"` and without an activation; `final_norm="rms"` and
            `softmax_bias=False`.
        folder: the folder to write, which must not exist.
        dtype: `"float32"`, `"bfloat16"`, `"float16"` or `"float64"`; `None` for the type of the
            model's variables.
        more: further keys of `config.json`, such as `max_position_embeddings` or `eos_token_id`.
        max_file_bytes: the maximum size of a file. As much memory is needed.

    Returns:
        The path of the folder.

    Raises:
        FileExistsError: if the folder exists.
        OSError: if a file cannot be written.
        tfmoe.extras.MissingExtra: without the package safetensors.
        ValueError: if the format cannot hold the model (the message names the block and its
            option), or `more` has a key that the model determines.
    """
    with atomic_folder(folder) as temporary, full_disk_named(folder):
        write_model(model, temporary, dtype, more, max_file_bytes)
    return pathlib.Path(folder)


def write_model(
    model: LanguageModel,
    folder: pathlib.Path,
    dtype: str | None = None,
    more: Mapping[str, Any] | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
):
    """Writes the files of a checkpoint to an existing folder, to which others can be added.

    Args:
        model: as for `save_model`.
        folder: an existing folder.
        dtype: as for `save_model`.
        more: as for `save_model`.
        max_file_bytes: as for `save_model`.

    Raises:
        OSError: if a file cannot be written.
        ValueError: as for `save_model`.
    """
    extras.require("safetensors")
    positive("max_file_bytes", max_file_bytes)
    shape = shape_of(model)
    check_one_worker(model)
    stored = np.dtype(one_of("dtype", dtype or model.variable_dtype, DTYPES.values()))
    configuration = {**configuration_of(shape), "torch_dtype": stored.name}
    for key, value in (more or {}).items():
        if key in configuration:
            raise ValueError(
                f"more[{key!r}] must be left out: it is {configuration[key]!r} by the model, got "
                f"{value!r}"
            )
    entries = list(entries_of(model, shape))
    sizes = {
        name: math.prod(entry.stored_shape()) * stored.itemsize
        for entry in entries
        for name in entry.all_names()
    }
    tensors = (
        (name, value.astype(stored, copy=False))
        for entry in entries
        for name, value in entry.tensors()
    )
    text = json.dumps({**configuration, **(more or {})}, indent=2) + "\n"
    (folder / CONFIG).write_text(text, encoding="utf-8")
    write_tensors(folder, sizes, tensors, max_file_bytes)


def check_one_worker(model: keras.Model):
    """Raises a ValueError for a model of several workers, which would all write the folder."""
    strategy = model.distribute_strategy
    if is_mixed(strategy) and num_workers(strategy) > 1:
        raise ValueError(
            "model must be a model of one process: write tfmoe.distribute.on_one_device(model), "
            f"got one of {num_workers(strategy)} workers"
        )
