"""Writes functions as files of ONNX, and runs them in ONNX Runtime."""

import hashlib
import logging
import pathlib
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


def write_onnx(folder: pathlib.Path, functions: dict):
    """Writes one model for each function, `NAME.onnx`. They share their weights, `weights.bin`.

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


def converted(name, function):
    """Converts a function to an ONNX model.

    Args:
        name: its name, for errors.
        function: a `tf.function`.
    """
    with errors_of_tf2onnx() as messages:
        model, _ = tf2onnx.convert.from_function(
            function,
            input_signature=function.input_signature,
            opset=OPSET,
            custom_op_handlers={"Erfc": (erfc, [])},
        )
    unknown = {
        node.op_type: node.name
        for graph in graphs(model.graph)
        for node in graph.node
        if not onnx.defs.has(node.op_type, node.domain)
    }
    if unknown or messages:
        operations = ", ".join(f"{kind} ({node})" for kind, node in unknown.items())
        raise ConversionError(
            f"ONNX cannot hold the function {name}: it has no operation {operations or messages[0]}"
        )
    return model


def errors_of_tf2onnx():
    """A context that collects the messages of errors, which tf2onnx logs without raising them."""
    return Messages()


class Messages(logging.Handler):
    """Collects the error messages of tf2onnx, and keeps its messages off the screen."""

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


def erfc(context, node, name, arguments):
    """Converts `Erfc`, which tf2onnx does not know, to `1 - Erf`. Its arguments are those of a
    handler of tf2onnx.
    """
    node.type = "Erf"
    dtype = context.get_dtype(node.output[0])
    one = context.make_const(f"{name}_one", onnx.helper.tensor_dtype_to_np_dtype(dtype).type(1))
    context.insert_new_node_on_output(
        "Sub", node.output[0], name=f"{name}_sub", inputs=[one.output[0], node.output[0]]
    )


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
