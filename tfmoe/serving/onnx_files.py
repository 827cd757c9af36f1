"""Writes functions as files of ONNX, and runs them in ONNX Runtime."""

import hashlib
import logging
import pathlib
import re
from collections.abc import Callable

from tfmoe.extras import optional
from tfmoe.serving.portable import ConversionError

onnx = optional("onnx")
onnxruntime = optional("onnxruntime")
tf2onnx = optional("tf2onnx")

OPSET = 18  # the last one that tf2onnx 1.17 and ONNX Runtime both support
WEIGHTS = "weights.bin"
MIN_BYTES = 1024  # of a tensor that is written to this file
ALIGNMENT = 64
# What tf2onnx says of a node, whose name ends with its operation.
FAILED = re.compile(r"[Ff]ailed to convert node '([^']+)'")


def write_onnx(folder: pathlib.Path, functions: dict):
    """Writes one model for each function, `NAME.onnx`. They share large weights, in `weights.bin`.

    Args:
        folder: exists.
        functions: `{name: tf.function}`, see `tfmoe.serving.portable.traced`.

    Raises:
        ConversionError: if a function has an operation that ONNX does not have.
    """
    offsets: dict[str, int] = {}
    with open(folder / WEIGHTS, "wb") as file:
        for name, function in functions.items():
            model = converted(name, function)
            for graph in graphs(model.graph):
                for tensor in graph.initializer:
                    move_weights(tensor, file, offsets)
            onnx.save(model, folder / f"{name}.onnx")
    if not offsets:
        (folder / WEIGHTS).unlink()


def converted(name, function):
    """Converts a function to an ONNX model.

    Args:
        name: its name, for errors.
        function: a `tf.function`.
    """
    with ErrorMessages() as messages:
        model, _ = tf2onnx.convert.from_function(
            function,
            input_signature=function.input_signature,
            opset=OPSET,
        )
    unknown = {
        node.name: node.op_type
        for graph in graphs(model.graph)
        for node in graph.node
        if not onnx.defs.has(node.op_type, node.domain)
    }
    failed = [name for message in messages for name in FAILED.findall(message)]
    refused = unknown | {name: name.rpartition("/")[2] for name in failed}
    if refused or messages:
        operations = ", ".join(f"{kind} ({name})" for name, kind in refused.items())
        reason = f"it has no operation {operations}" if refused else messages[0]
        raise ConversionError(f"ONNX cannot hold the function {name}: {reason}")
    return model


class ErrorMessages(logging.Handler):
    """A context that collects the errors that tf2onnx logs without raising them."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.messages, self.logger = [], logging.getLogger("tf2onnx")

    def emit(self, record):
        self.messages.append(record.getMessage())

    def __enter__(self):
        self.before = self.logger.propagate, self.logger.handlers
        self.logger.propagate, self.logger.handlers = False, [self]
        return self.messages

    def __exit__(self, *_):
        self.logger.propagate, self.logger.handlers = self.before


def graphs(graph):
    """Yields a graph of ONNX and the graphs of its loops and branches."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                yield from graphs(inner)


def move_weights(tensor, file, offsets):
    """Moves the values of a tensor of ONNX to the file of weights.

    Args:
        tensor: an `onnx.TensorProto`, which is changed.
        file: the file, open for writing bytes.
        offsets: `{SHA-256 of values: where they are in the file}`, which is extended.
    """
    values = tensor.raw_data
    if len(values) < MIN_BYTES:
        return
    digest = hashlib.sha256(values).hexdigest()
    if digest not in offsets:
        file.write(bytes(-file.tell() % ALIGNMENT))
        offsets[digest] = file.tell()
        file.write(values)
    onnx.external_data_helper.set_external_data(tensor, WEIGHTS, offsets[digest], len(values))
    tensor.ClearField("raw_data")


def load_onnx(folder: pathlib.Path, names: list[str]) -> dict[str, Callable]:
    """Loads functions that `write_onnx` wrote.

    Args:
        folder: where they are.
        names: their names.

    Returns:
        `{name: function}`, from named arrays to `{name: array}`.
    """
    return {name: _function(folder / f"{name}.onnx") for name in names}


def _function(path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda **inputs: dict(zip(names, session.run(names, inputs), strict=True))
