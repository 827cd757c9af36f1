"""What types alone cannot say: values that do not go together.

The layers know best, and say it in their own ValueErrors: each block is made, without weights, and
what its layer objects to is reported under the block's key.
"""

import re

import pydantic

from tfmoe.config.builders import build_layer, build_optimizer_from
from tfmoe.config.schema import Block, Grammars, Optimizer

# Keras puts this before the message of an error in a layer's constructor that it called itself.
WRAPPED = "Exception encountered: "

_BLOCK = pydantic.TypeAdapter(Block)
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
    blocks, d_model = _at(tree, "model", "blocks"), _at(tree, "model", "d_model")
    for index, block_tree in enumerate(blocks if isinstance(blocks, list) else []):
        block = _valid(_BLOCK, block_tree)
        if block is None:
            continue
        path = ("model", "blocks", index)
        try:
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
        build_optimizer_from(optimizer)
    except (ValueError, TypeError) as error:
        yield _argument_path(("training", "optimizer"), optimizer, str(error))


def _data_problems(tree):
    data = _at(tree, "data")
    if not isinstance(data, dict) or data.get("name") != "grammars":
        return
    grammars = _valid(pydantic.TypeAdapter(Grammars), data)
    if grammars is not None and grammars.successors > grammars.symbols:
        yield (
            ("data", "successors"),
            f"must be at most symbols={grammars.symbols}, got {grammars.successors}",
        )
