"""Writes functions as graph models of TensorFlow.js.

A model is a JSON file, with the keys that tfjs-converter 4 reads: the graph without the values of
its constants, and the files that have them.
"""

import json
import pathlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from google.protobuf import json_format

from tfmoe.serving.constant_weights import captured, check_size
from tfmoe.serving.portable import ConversionError
from tfmoe.serving.tfjs_operations import OPERATIONS

WEIGHTS = "weights.bin"
MIN_BYTES = 1024  # of a constant that functions share
# TensorFlow.js has no 64-bit numbers: shapes are int32.
DTYPES = {"float32": "float32", "int32": "int32", "int64": "int32", "bool": "bool"}


def write_tfjs(folder: pathlib.Path, functions: dict):
    """Writes a model for each function: `NAME.json`, with constants in `NAME.bin`. The large
    constants that all functions have are in `weights.bin`.

    Args:
        folder: exists.
        functions: `{name: tf.function}`, see `tfmoe.serving.portable.traced`.

    Raises:
        ConversionError: if a function has an operation or a type that TensorFlow.js does not have.
        ValueError: if the weights have more than 2 GB.
    """
    check_size(functions, "TensorFlow.js")
    graphs = {name: graph_of(name, function) for name, function in functions.items()}
    constants = {name: extract_constants(name, graph) for name, graph in graphs.items()}
    shared = shared_values(constants.values())
    if shared:
        (folder / WEIGHTS).write_bytes(b"".join(shared))
    for name, function in functions.items():
        values_of = constants[name]
        names = {values.tobytes(): key for key, values in values_of.items()}
        first = [names[value] for value in shared]
        groups = {WEIGHTS: first, f"{name}.bin": [key for key in values_of if key not in first]}
        own = b"".join(values_of[key].tobytes() for key in groups[f"{name}.bin"])
        (folder / f"{name}.bin").write_bytes(own)
        content = {
            "format": "graph-model",
            "generatedBy": f"TensorFlow {tf.__version__}",
            "convertedBy": "tfmoe",
            "signature": signature(function),
            "userDefinedMetadata": {"structuredOutputKeys": list(outputs_of(function))},
            "modelTopology": json_format.MessageToDict(graphs[name]),
            "weightsManifest": [
                {"paths": [path], "weights": [description(key, values_of[key]) for key in keys]}
                for path, keys in groups.items()
                if keys
            ],
        }
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


def inputs_of(function):
    """The tensors that are the arguments of a function, without the weights."""
    concrete = function.get_concrete_function()
    return concrete.inputs[: len(concrete.inputs) - len(concrete.captured_inputs)]


def outputs_of(function):
    """`{name: tensor}` of a function with one concrete function."""
    return function.get_concrete_function().structured_outputs


def graph_of(name, function):
    """The graph of a function: a `GraphDef` with the operations on which outputs depend.

    Args:
        name: the function's name, for errors.
        function: a `tf.function`.

    Raises:
        ConversionError: see `write_tfjs`.
    """
    graph = function.get_concrete_function().graph.as_graph_def()
    make_constant(graph, captured(function.get_concrete_function()))
    for nodes in node_lists(graph):
        for node in nodes:
            kept = [each for each in node.input if not each.startswith("^")]
            node.input[:] = kept
            if node.op == "EnsureShape":  # of tfjs-converter, which reads the shape as an input
                node.op = "Identity"
                del node.attr["shape"]
    tensors = [*inputs_of(function), *outputs_of(function).values()]
    remove_unused(graph.node, [tensor.op.name for tensor in tensors])
    for each in graph.library.function:
        remove_unused(each.node_def, each.ret.values())
    unknown = {
        node.op: node.name
        for nodes in node_lists(graph)
        for node in nodes
        if node.op not in OPERATIONS
    }
    if unknown:
        operations = ", ".join(f"{kind} ({node})" for kind, node in unknown.items())
        raise ConversionError(
            f"TensorFlow.js cannot hold the function {name}: it has no operation {operations}"
        )
    return graph


def make_constant(graph, weights):
    """Replaces placeholders by constants.

    Args:
        graph: a `GraphDef`, which is changed.
        weights: `{name of a placeholder: tensor}`.
    """
    for node in graph.node:
        if node.name in weights:
            values = tf.make_tensor_proto(weights[node.name].numpy())
            node.op = "Const"
            node.attr.clear()
            node.attr["dtype"].type = values.dtype
            node.attr["value"].tensor.CopyFrom(values)


def node_lists(graph):
    """The nodes of a graph and of each of its functions, which loops call."""
    return [graph.node, *(function.node_def for function in graph.library.function)]


def remove_unused(nodes, tensors):
    """Removes the nodes on which none of the tensors depends.

    Args:
        nodes: the nodes of a graph or a function, which are changed.
        tensors: names of tensors.
    """
    by_name = {node.name: node for node in nodes}
    used, names = set(), [name.split(":")[0] for name in tensors]
    while names:
        name = names.pop()
        if name in by_name and name not in used:  # not an argument of a function
            used.add(name)
            names += [each.split(":")[0] for each in by_name[name].input]
    kept = [node for node in nodes if node.name in used]
    del nodes[:]
    nodes.extend(kept)


def extract_constants(name, graph):
    """Removes the values of constants from a graph.

    Args:
        name: the function's name, for errors.
        graph: its `GraphDef`. The constants of its functions get unique names.

    Returns:
        `{name of a constant: array}`.
    """
    for function in graph.library.function:
        prefix_constants(function)
    arrays = {}
    for node in (node for nodes in node_lists(graph) for node in nodes if node.op == "Const"):
        values = tf.make_ndarray(node.attr["value"].tensor)
        if values.dtype.name not in DTYPES:
            raise ConversionError(
                f"TensorFlow.js cannot hold the function {name}: it has no {values.dtype.name} "
                f"({node.name})"
            )
        if values.dtype == np.int64:  # so that limits such as 2^63 - 1 remain limits
            values = np.clip(values, np.iinfo(np.int32).min, np.iinfo(np.int32).max)
        arrays[node.name] = values.astype(DTYPES[values.dtype.name])
        del node.attr["value"]
    return arrays


def prefix_constants(function):
    """Adds the name of a function to those of its constants: TensorFlow.js looks up the values of
    all constants of a model by one name each.
    """
    names = {node.name for node in function.node_def if node.op == "Const"}
    prefix = f"{function.signature.name}/"
    for node in function.node_def:
        if node.name in names:
            node.name = prefix + node.name
        for index, each in enumerate(node.input):
            if each.split(":")[0] in names:
                node.input[index] = prefix + each
    for key, value in function.ret.items():
        if value.split(":")[0] in names:
            function.ret[key] = prefix + value


def shared_values(constants):
    """The values of the large constants that all functions have, a sorted list of bytes.

    Args:
        constants: of each function, `{name: array}`.
    """
    values = [{x.tobytes() for x in each.values() if x.nbytes >= MIN_BYTES} for each in constants]
    return sorted(set.intersection(*values)) if len(values) > 1 else []


def description(name, values):
    """What a model says about a constant."""
    return {"name": name, "shape": list(values.shape), "dtype": values.dtype.name}


def signature(function):
    """The inputs and outputs of a function, as a model lists them."""

    def described(tensor):
        sizes = [{"size": str(-1 if size is None else size)} for size in tensor.shape]
        dtype = f"DT_{tensor.dtype.name.upper()}".replace("FLOAT32", "FLOAT")
        return {"name": tensor.name, "dtype": dtype, "tensorShape": {"dim": sizes}}

    return {
        "inputs": {tensor.op.name: described(tensor) for tensor in inputs_of(function)},
        "outputs": {key: described(tensor) for key, tensor in outputs_of(function).items()},
    }


def load_tfjs(folder: pathlib.Path, names: list[str]) -> dict[str, Callable]:
    """Loads models that `write_tfjs` wrote. TensorFlow computes them: this checks the files, and
    not TensorFlow.js.

    Args:
        folder: where they are.
        names: of the functions.

    Returns:
        `{name: function}`, from named arrays to `{name: array}`.
    """
    return {name: _function(folder, name) for name in names}


def _function(folder, name):
    content = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    arrays = {}
    for group in content["weightsManifest"]:
        data, start = b"".join((folder / path).read_bytes() for path in group["paths"]), 0
        for weight in group["weights"]:
            count = int(np.prod(weight["shape"]))
            values = np.frombuffer(data, weight["dtype"], count, start)
            arrays[weight["name"]] = values.reshape(weight["shape"])
            start += values.nbytes
    graph_def = json_format.ParseDict(content["modelTopology"], tf.compat.v1.GraphDef())
    for node in (node for nodes in node_lists(graph_def) for node in nodes if node.op == "Const"):
        dtype = tf.as_dtype(node.attr["dtype"].type)
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(arrays[node.name], dtype))
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
    inputs, outputs = (
        {key: value["name"] for key, value in content["signature"][kind].items()}
        for kind in ("inputs", "outputs")
    )

    session = tf.compat.v1.Session(graph=graph)
    return lambda **arguments: session.run(outputs, {inputs[k]: x for k, x in arguments.items()})
