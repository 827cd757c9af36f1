"""What types alone cannot say: values that do not go together.

The layers know best, and say it in their own ValueErrors: each block is made, without weights, and
what its layer objects to is reported under the block's key.
"""

import keras
import pydantic
import tensorflow as tf

from data_pipelines import EMBEDDED_LANGUAGES as LANGUAGES
from tfmoe.config.builders import build_layer, build_optimizer_from
from tfmoe.config.data_schema import LANGUAGE_MODEL_DATA, TRANSLATION_DATA, Data, Grammars, Parallel
from tfmoe.config.model_schema import MODEL_SECTIONS, DecoderBlock, block_lists, needs_memory
from tfmoe.config.named import name_of
from tfmoe.config.sections import SectionError, construct
from tfmoe.config.training_schema import Optimizer
from tfmoe.layers import BLOCKS
from tfmoe.optimizers.registry import NEED_WHOLE_VARIABLES

# The kind of model that each kind of data is for.
KINDS = {
    **{name_of(section): "language_model" for section in LANGUAGE_MODEL_DATA},
    **{name_of(section): "translation" for section in TRANSLATION_DATA},
}

_BLOCK = pydantic.TypeAdapter(DecoderBlock)
_DATA = pydantic.TypeAdapter(Data)
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
        block = _valid(_BLOCK, block_tree)
        if block is None:
            continue
        yield from _place_problems(path, block)
        try:
            # A strategy must come before all use of TensorFlow, so nothing may be allocated here.
            with keras.StatelessScope(initialize_variables=False):
                layer = build_layer(block, name=f"{block.name}_{path[-1]}")
        except SectionError as error:
            yield from error.under(*path)
            continue
        if type(d_model) is int and d_model > 0:
            yield from _width_problems(path, block, layer, d_model)


def _block_trees(tree):
    """Yields `(path, block)` for each item of a list of blocks in `model`."""
    keys = [key for section in MODEL_SECTIONS.values() for key in block_lists(section)]
    for key in dict.fromkeys(keys):
        blocks = _at(tree, "model", key)
        for index, block in enumerate(blocks if isinstance(blocks, list) else []):
            yield ("model", key, index), block


def _place_problems(path, block):
    """A layer that needs the source is the first block of a decoder, and only there."""
    is_first = path[2] == 0
    if path[1] == "decoder" and is_first != needs_memory(type(block).made_from.constructor):
        names = " or ".join(name for name, layer in BLOCKS.items() if needs_memory(layer))
        which = "must" if is_first else "must not"
        yield (
            (*path, "name"),
            f"{which} be {names}: the first block of the decoder, and no other, feeds the "
            f"attention; got {block.name}",
        )


def _width_problems(path, block, layer, d_model):
    """Blocks have residual connections."""
    width = layer.compute_output_shape((None, None, d_model))[-1]
    if width == d_model:
        return
    message = (
        f"the block's output is {width} wide, but the residual connection needs "
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
    path, kind = ("training", "optimizer"), _at(tree, "distribute", "name")
    if kind not in (None, "none") and optimizer.name in NEED_WHOLE_VARIABLES:
        yield (
            (*path, "name"),
            f"must not be {optimizer.name} where distribute.name is {kind}, which divides the "
            f"experts among devices: {NEED_WHOLE_VARIABLES[optimizer.name]}",
        )
    limits = [optimizer.clip_norm, optimizer.global_clip_norm]
    if None not in limits:
        yield (
            (*path, "clip_norm"),
            f"must be null where global_clip_norm is set, got {limits[0]} and {limits[1]}",
        )
        return
    try:
        with tf.Graph().as_default():  # nor here
            build_optimizer_from(optimizer)
    except SectionError as error:
        yield from error.under(*path)


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
    section = _valid(_DATA, data)
    if section is not None and type(section).made_from is not None:
        try:
            construct(section)
        except SectionError as error:
            yield from error.under("data")
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
