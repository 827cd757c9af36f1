"""Writes functions as a file of LiteRT (TensorFlow Lite), and runs them in its interpreter."""

import pathlib
import re
import tempfile
from collections.abc import Callable

import tensorflow as tf

from tfmoe.extras import is_installed, optional
from tfmoe.serving.constant_weights import check_size
from tfmoe.serving.portable import ConversionError
from tfmoe.serving.saved_model import save

interpreter = optional("ai_edge_litert.interpreter")

MODEL = "model.tflite"
# What the converter says about operations.
TYPES = re.compile(r"^\ttf\.(\w+)(\([^\n]*?\)) ->", re.MULTILINE)
REFUSED = re.compile(r"'tf\.(\w+)' op ([^\n]*)")


def write_litert(folder: pathlib.Path, functions: dict):
    """Writes all functions into one file, `model.tflite`, as its signatures. It has operations of
    LiteRT itself only, none of TensorFlow.

    Args:
        folder: exists.
        functions: `{name: tf.function}`, see `tfmoe.serving.portable.traced`.

    Raises:
        ConversionError: if a function has an operation that LiteRT does not have.
        ValueError: if the weights have more than 2 GB.
    """
    check_size(functions, "LiteRT")
    module = tf.Module()
    concrete = {name: function.get_concrete_function() for name, function in functions.items()}
    with tempfile.TemporaryDirectory() as saved:
        save(module, concrete, saved)
        converter = tf.lite.TFLiteConverter.from_saved_model(saved, signature_keys=list(concrete))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        try:
            content = converter.convert()
        except Exception as error:
            raise ConversionError(refusal(str(error))) from None
    (folder / MODEL).write_bytes(content)


def refusal(message):
    """A message about the operations that the converter refused.

    Args:
        message: that of the converter.
    """
    types = dict(TYPES.findall(message))
    reasons = [
        f"it has no operation {operation} of {types[operation]}"
        if operation in types
        else f"the operation {operation} {reason}"
        for operation, reason in {**dict.fromkeys(types), **dict(REFUSED.findall(message))}.items()
    ]
    return f"LiteRT cannot hold the model: {'; '.join(reasons) or message[-500:]}"


def load_litert(folder: pathlib.Path, names: list[str]) -> dict[str, Callable]:
    """Loads functions that `write_litert` wrote, in the interpreter of the package ai-edge-litert,
    or without it in that of TensorFlow.

    Args:
        folder: where they are.
        names: their names.

    Returns:
        `{name: function}`, from named arrays to `{name: array}`.
    """
    new = interpreter.Interpreter if is_installed("ai_edge_litert") else tf.lite.Interpreter
    model = new(str(folder / MODEL))
    return {name: model.get_signature_runner(name) for name in names}
