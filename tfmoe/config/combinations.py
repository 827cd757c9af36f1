"""What types alone cannot say: values that do not go together.

The layers know best, and say it in their own ValueErrors: each block is made, without weights, and
what its layer objects to is reported under the block's key.
"""

import re

import keras
import pydantic
import tensorflow as tf

from data_pipelines import EMBEDDED_LANGUAGES as LANGUAGES
from tfmoe.config.builders import build_layer, build_optimizer_from
from tfmoe.config.data_schema import LANGUAGE_MODEL_DATA, TRANSLATION_DATA, Grammars, Parallel
from tfmoe.config.model_schema import DecoderBlock
from tfmoe.config.named import name_of
from tfmoe.config.training_schema import Optimizer

# Keras puts this before the message of an error in a layer's constructor that it called itself.
WRAPPED = "Exception encountered: "

# The kind of model that each kind of data is for.
KINDS = {
    **{name_of(section): "language_model" for section in LANGUAGE_MODEL_DATA},
    **{name_of(section): "translation" for section in TRANSLATION_DATA},
}

_BLOCK = pydantic.TypeAdapter(DecoderBlock)
_OPTIMIZER = pydantic.TypeAdapter(Optimizer)


def combination_problems(tree):
    """Finds values that do not go together, in those parts of a config whose types are right.

    Args:
        tree: the config as dictionaries and lists.

    Returns:
        List of `(path, message)`.
    """
    return [*_block_problems(tree), *_optimizer_problems(tree), *_data_problems(tree)]


def _at(tree, *path):
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _valid(adapter, tree):
    try:
        return adapter.validate_python(tree)
    except pydantic.ValidationError:
        return None  # reported already


def _block_problems(tree):
    d_model = _at(tree, "model", "d_model")
    for path, block_tree in _block_trees(tree):
        block, index = _valid(_BLOCK, block_tree), path[-1]
        if block is None:
            continue
        is_first = path == ("model", "decoder", 0)
        if path[1] == "decoder" and is_first != (block.name == "attention_lstm"):
            which = "must" if is_first else "must not"
            yield (
                (*path, "name"),
                f"{which} be attention_lstm: the first block of the decoder, and no other, feeds "
                f"the attention; got {block.name}",
            )
        try:
            # A strategy must come before all use of TensorFlow, so nothing may be allocated here.
            with keras.StatelessScope(initialize_variables=False):
                layer = build_layer(block, name=f"{block.name}_{index}")
        except (ValueError, TypeError) as error:
            yield _argument_path(path, block, str(error))
            continue
        if type(d_model) is int and d_model > 0:
            width = layer.compute_output_shape((None, None, d_model))[-1]
            if width != d_model:
                key = "units" if getattr(block, "projection_units", 0) is None else None
                yield (
                    (*path, key or "projection_units"),
                    f"the block's output is {width} wide, but the residual connection needs "
                    f"model.d_model={d_model}; set projection_units: {d_model}",
                )


def _block_trees(tree):
    """Yields `(path, block)` for each item of `model.blocks`, `model.encoder` and
    `model.decoder`.
    """
    for key in ("blocks", "encoder", "decoder"):
        blocks = _at(tree, "model", key)
        for index, block in enumerate(blocks if isinstance(blocks, list) else []):
            yield ("model", key, index), block


def _argument_path(path, block, message):
    """Puts the message of a layer or an optimizer, which begins with the argument's name, under the
    argument's key.
    """
    message = message.rpartition(WRAPPED)[2]
    argument, rest = re.match(r"(?s)(?:Argument )?`?(\w*)`?\s*(.*)", message).groups()
    if argument in type(block).model_fields:
        return (*path, argument), rest
    if argument in type(getattr(block, "gate", block)).model_fields:
        return (*path, "gate", argument), rest
    return path, message


def _optimizer_problems(tree):
    optimizer_tree = _at(tree, "training", "optimizer")
    optimizer = _valid(_OPTIMIZER, optimizer_tree) if optimizer_tree is not None else None
    if optimizer is None:
        return
    limits = [optimizer.clip_norm, optimizer.global_clip_norm]
    if None not in limits:
        yield (
            ("training", "optimizer", "clip_norm"),
            f"must be null where global_clip_norm is set, got {limits[0]} and {limits[1]}",
        )
        return
    try:
        with tf.Graph().as_default():  # nor here
            build_optimizer_from(optimizer)
    except (ValueError, TypeError) as error:
        yield _argument_path(("training", "optimizer"), optimizer, str(error))


def _data_problems(tree):
    data, model = _at(tree, "data"), _at(tree, "model")
    if not isinstance(data, dict) or not isinstance(model, dict):
        return
    name, kind = data.get("name"), model.get("name", "language_model")
    if name in KINDS and kind in set(KINDS.values()) and KINDS[name] != kind:
        fitting = ", ".join(each for each, used_by in KINDS.items() if used_by == kind)
        yield ("data", "name"), f"must be one of {fitting} for model.name={kind}, got {name}"
    if kind == "translation" and _at(data, "vocabulary", "file") is None:
        vocabulary = data.get("vocabulary", {})
        if isinstance(vocabulary, dict) and vocabulary.get("size", 0) is None:
            yield ("data", "vocabulary", "size"), "must be given where vocabulary.file is not"
    if name == "grammars":
        yield from _grammar_problems(data)
    elif name == "parallel":
        yield from _parallel_problems(data)
    elif name == "embedded_translation":
        yield from _pair_problems(data)


def _grammar_problems(data):
    grammars = _valid(pydantic.TypeAdapter(Grammars), data)
    if grammars is not None and grammars.successors > grammars.symbols:
        yield (
            ("data", "successors"),
            f"must be at most symbols={grammars.symbols}, got {grammars.successors}",
        )


def _parallel_problems(data):
    """Either one direction or a list of them."""
    if _valid(pydantic.TypeAdapter(Parallel), data) is None:
        return
    one = ("source_language", "target_language", "train")
    if not data.get("directions"):
        for key in one:
            if not data.get(key):
                yield ("data", key), "is missing; or give data.directions for several"
        yield from _same_language(data, ("data",))
        return
    for index, direction in enumerate(data["directions"]):
        yield from _same_language(direction, ("data", "directions", index))
    for key in (*one, "valid", "test"):
        if data.get(key):
            yield ("data", key), "must not be given beside data.directions, which have their own"


def _same_language(direction, path):
    language = direction.get("target_language")
    if language is not None and direction.get("source_language") == language:
        yield (*path, "target_language"), f"must differ from source_language, got {language!r}"


def _pair_problems(data):
    """Pairs of languages as in `en-fr`."""
    pairs = data.get("pairs", [])
    for index, pair in enumerate(pairs if isinstance(pairs, list) else []):
        source, _, target = str(pair).partition("-")
        known = source in LANGUAGES and target in LANGUAGES
        if not known or source == target or pair in pairs[:index]:
            yield (
                ("data", "pairs", index),
                f"must be two different languages of {', '.join(LANGUAGES)}, such as en-fr, each "
                f"pair once; got {pair!r}",
            )
