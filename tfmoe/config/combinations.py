"""Checks that a schema cannot express: values that are invalid together.

The layers check their own arguments. Each block is constructed without weights, and the layer's
ValueError is reported under the block's key.
"""

import keras
import pydantic
import tensorflow as tf

from tfmoe.config.builders import build_layer, build_optimizer_from
from tfmoe.config.data_schema import DATA_SECTIONS, Data, corpus_of
from tfmoe.config.model_schema import MODEL_SECTIONS, DecoderBlock, block_lists, needs_memory
from tfmoe.config.named import Section, section_at
from tfmoe.config.number_types import Width
from tfmoe.config.sections import SectionError
from tfmoe.config.training_schema import Optimizer
from tfmoe.layers import BLOCKS
from tfmoe.layers.normalization import EPSILON
from tfmoe.optimizers.registry import NEED_WHOLE_VARIABLES

# The kind of corpus that each model trains on.
CORPUS_KINDS = {"language_model": "language", "translation": "parallel"}

_BLOCK = pydantic.TypeAdapter(DecoderBlock)
_DATA = pydantic.TypeAdapter(Data)
_OPTIMIZER = pydantic.TypeAdapter(Optimizer)
_WIDTH = pydantic.TypeAdapter(Width, config=Section.model_config)


def combination_problems(tree):
    """Lists values that are invalid together. Parts of the config with type errors are skipped.

    Args:
        tree: the config as dictionaries and lists.

    Returns:
        List of `(path, message)`.
    """
    return [*_block_problems(tree), *_optimizer_problems(tree), *_data_problems(tree)]


def _at(tree, *path):
    """The value at a path of keys, `None` if there is none."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _valid(adapter, tree):
    try:
        return adapter.validate_python(tree)
    except pydantic.ValidationError:
        return None  # already reported


def _block_problems(tree):
    yield from _decoder_problems(tree)
    yield from _epsilon_problems(("model",), _at(tree, "model"), "final_norm")
    d_model = _at(tree, "model", "d_model")
    for path, block_tree in _block_trees(tree):
        yield from _epsilon_problems(path, block_tree, "norm")
        block = _valid(_BLOCK, block_tree)
        if block is None:
            continue
        try:
            # A strategy must be created before TensorFlow is used, so allocate nothing here.
            with keras.StatelessScope(initialize_variables=False):
                layer = build_layer(block, name=f"{block.name}_{path[-1]}")
        except SectionError as error:
            yield from error.under(*path)
            continue
        yield from _later_position_problems(path, block, layer)
        if _valid(_WIDTH, d_model) is not None:
            yield from _width_problems(path, block, layer, d_model)


def _block_trees(tree):
    """Yields `(path, block)` for each item of a list of blocks in `model`."""
    keys = [key for section in MODEL_SECTIONS.values() for key in block_lists(section)]
    for key in dict.fromkeys(keys):
        blocks = _at(tree, "model", key)
        for index, block in enumerate(blocks if isinstance(blocks, list) else []):
            yield ("model", key, index), block


def _decoder_problems(tree):
    """A decoder has a block that reads the source."""
    blocks = _at(tree, "model", "decoder")
    blocks = blocks if isinstance(blocks, list) else []
    names = [block.get("name") for block in blocks if isinstance(block, dict)]
    readers = [name for name, layer in BLOCKS.items() if needs_memory(layer)]
    if names and len(names) == len(blocks) and not {*names} & {*readers}:
        yield (
            ("model", "decoder"),
            f"must have a block {' or '.join(readers)}, which attends to the source; got "
            f"{', '.join(map(str, names))}",
        )


def _epsilon_problems(path, section, norm):
    """The epsilon of a normalization is left out without one."""
    if not isinstance(section, dict) or section.get(norm) is not None:
        return
    key = f"{norm}_epsilon"
    epsilon = section.get(key, EPSILON)
    if isinstance(epsilon, int | float) and epsilon != EPSILON:
        yield (*path, key), f"must be left out without {norm}, got {epsilon}"


def _later_position_problems(path, block, layer):
    """Only an encoder may have a layer that reads later positions."""
    if path[1] != "encoder" and getattr(layer, "reads_later", False):
        causal = hasattr(layer, "causal")
        change = "set causal: true" if causal else f"use {block.name} in an encoder only"
        yield (
            (*path, "causal" if causal else "name"),
            f"the block must not read later positions, which are the words to predict; {change}",
        )


def _width_problems(path, block, layer, d_model):
    """A block's output has the width of its input."""
    width = layer.compute_output_shape((None, None, d_model))[-1]
    if width == d_model:
        return
    message = (
        f"the block's output has width {width}, but must have the width of its input, "
        f"model.d_model={d_model}"
    )
    if not hasattr(block, "projection_units"):
        yield path, message
        return
    key = "units" if block.projection_units is None else "projection_units"
    yield (*path, key), f"{message}; set projection_units: {d_model}"


def _optimizer_problems(tree):
    optimizer_tree = _at(tree, "training", "optimizer")
    optimizer = _valid(_OPTIMIZER, optimizer_tree) if optimizer_tree is not None else None
    if optimizer is None:
        return
    path, strategy = ("training", "optimizer"), _at(tree, "distribute", "name")
    if strategy not in (None, "none") and optimizer.name in NEED_WHOLE_VARIABLES:
        yield (
            (*path, "name"),
            f"must not be {optimizer.name} when distribute.name is {strategy}, which shards the "
            f"experts over devices: {NEED_WHOLE_VARIABLES[optimizer.name]}",
        )
    limits = [optimizer.clip_norm, optimizer.global_clip_norm]
    if None not in limits:
        yield (
            (*path, "clip_norm"),
            f"must be null when global_clip_norm is set, got {limits[0]:g} and {limits[1]:g}",
        )
        return
    try:
        with tf.Graph().as_default():  # allocates nothing, as above
            build_optimizer_from(optimizer)
    except SectionError as error:
        yield from error.under(*path)


def _data_problems(tree):
    data, model = _at(tree, "data"), _at(tree, "model")
    if not isinstance(data, dict) or not isinstance(model, dict):
        return
    name, model_name = data.get("name"), model.get("name", "language_model")
    if not (isinstance(name, str) and isinstance(model_name, str)):
        return
    kind = CORPUS_KINDS.get(model_name)
    chosen = section_at(Data, data)
    if chosen is not None and kind is not None and chosen.made_from.constructor.kind != kind:
        yield _not_for_model(data, model_name, DATA_SECTIONS[kind])
    if kind == "parallel" and _at(data, "vocabulary", "file") is None:
        vocabulary = data.get("vocabulary", {})
        if isinstance(vocabulary, dict) and vocabulary.get("size", 0) is None:
            yield ("data", "vocabulary", "size"), "must be set when vocabulary.file is null"
    section = _valid(_DATA, data)
    if section is None:
        return
    try:
        corpus_of(section)
    except SectionError as error:
        yield from error.under("data")


def _not_for_model(data, model, sections):
    """The problem of data for another kind of model.

    Args:
        data: the mapping `data`.
        model: the model's name.
        sections: `{name: section}` of the data for such a model.
    """
    name = data["name"]
    if name not in sections:
        names = ", ".join(sections)
        return ("data", "name"), f"must be one of {names} for model.name={model}, got {name}"
    fields = sections[name].model_fields
    missing = [key for key, field in fields.items() if field.is_required() and key not in data]
    stray = [str(key) for key in data if key not in fields]
    parts = [f"needs {', '.join(missing)}"] if missing else []
    parts += [f"has no {', '.join(stray)}"] if stray else []
    return ("data",), f"name: {name} for model.name={model} {' and '.join(parts)}"
