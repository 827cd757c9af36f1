"""Writes functions as files of ONNX, and runs them in ONNX Runtime."""

import hashlib
import logging
import pathlib
import re
from collections.abc import Callable

from tfmoe.extras import optional
from tfmoe.serving.constant_weights import captured
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
            weights = captured(function.get_concrete_function())
            add_weights(model.graph, weights)
            for graph in graphs(model.graph):
                for tensor in graph.initializer:
                    move_weights(tensor, weights.get(tensor.name), file, offsets)
            onnx.save(model, folder / f"{name}.onnx")
    if not offsets:
        (folder / WEIGHTS).unlink()


def converted(name, function):
    """Converts a function to an ONNX model whose weights are inputs: tf2onnx copies constants many
    times.

    Args:
        name: its name, for errors.
        function: a `tf.function`.
    """
    concrete = function.get_concrete_function()
    outputs = concrete.structured_outputs
    tensors = [*concrete.inputs, *outputs.values()]
    names = [*(tensor.op.name for tensor in concrete.inputs), *outputs]
    with ErrorMessages() as messages:
        model, _ = tf2onnx.convert.from_graph_def(
            concrete.graph.as_graph_def(),
            input_names=[tensor.name for tensor in concrete.inputs],
            output_names=[tensor.name for tensor in outputs.values()],
            tensors_to_rename={x.name: name for x, name in zip(tensors, names, strict=True)},
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


def add_weights(graph, weights):
    """Replaces the inputs of a graph that are weights by initializers without values.

    Args:
        graph: an `onnx.GraphProto`, which is changed.
        weights: `{name: tensor}`.
    """
    inputs = list(graph.input)
    del graph.input[:]
    for each in inputs:
        if each.name in weights:
            type_, shape = each.type.tensor_type.elem_type, weights[each.name].shape
            graph.initializer.add(name=each.name, data_type=type_, dims=shape)
        else:
            graph.input.append(each)


def move_weights(tensor, weight, file, offsets):
    """Writes the values of a tensor of ONNX to the file of weights, if they are large.

    Args:
        tensor: an `onnx.TensorProto`, which is changed.
        weight: the tensor of TensorFlow that has the values; `None` if the tensor itself has them.
        file: the file, open for writing bytes.
        offsets: `{SHA-256 of values: where they are in the file}`, which is extended.
    """
    values = tensor.raw_data if weight is None else weight.numpy().tobytes()
    if len(values) < MIN_BYTES:
        if weight is not None:
            tensor.raw_data = values
        return
    digest = hashlib.sha256(values).hexdigest()
    if digest not in offsets:
        file.write(bytes(-file.tell() % ALIGNMENT))
        offsets[digest] = file.tell()
        file.write(values)
    tensor.raw_data = b""  # set_external_data requires the field
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
