"""Graphs for other runtimes: their operations, and their results in ONNX Runtime and LiteRT."""

import numpy as np
import pytest
import tensorflow as tf

from tfmoe.distribute.static_shapes import portable_operations

# Operations that tf2onnx, LiteRT (for shapes with unknown axes) or TensorFlow.js lack.
WITHOUT_COUNTERPART = {
    "BooleanMask",
    "DynamicPartition",
    "Erfc",
    "Expm1",
    "InvertPermutation",
    "Softsign",
    "TensorListConcatV2",
    "TensorListFromTensor",
    "TensorListReserve",
    "Where",
}


def traced(function, *specs):
    """The concrete function of a function, for other runtimes."""
    with portable_operations():
        return tf.function(function, autograph=False).get_concrete_function(*specs)


def operations(concrete):
    """The types of all operations of a concrete function, of its loops too."""
    definition = concrete.graph.as_graph_def()
    bodies = [definition.node, *(f.node_def for f in definition.library.function)]
    return {node.op for nodes in bodies for node in nodes}


def adds_axes_to_bool(concrete):
    """Whether a slice adds an axis to booleans, which LiteRT cannot."""
    definition = concrete.graph.as_graph_def()
    bodies = [definition.node, *(f.node_def for f in definition.library.function)]
    slices = (node for nodes in bodies for node in nodes if node.op == "StridedSlice")
    return any(
        node.attr["T"].type == tf.bool.as_datatype_enum and node.attr["new_axis_mask"].i
        for node in slices
    )


def in_onnx_runtime(function, specs, batches):
    """The results of a function that returns a dictionary, for each batch."""
    tf2onnx, onnxruntime = pytest.importorskip("tf2onnx"), pytest.importorskip("onnxruntime")
    with portable_operations():
        graph = tf.function(function, input_signature=specs, autograph=False)
        model, _ = tf2onnx.convert.from_function(graph, input_signature=specs, opset=18)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [node.name for node in session.get_inputs()]
    outputs = [node.name.split(":")[0] for node in session.get_outputs()]
    results = []
    for batch in batches:
        values = {spec.name: value for spec, value in zip(specs, batch, strict=True)}
        inputs = {name: values[name.split(":")[0]] for name in names}
        results.append(dict(zip(outputs, session.run(None, inputs), strict=True)))
    return results


def in_litert(function, specs, batches):
    """As `in_onnx_runtime`, in LiteRT with its own operations only."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    module = tf.Module()
    with portable_operations():
        module.function = tf.function(function, input_signature=specs, autograph=False)
        concrete = module.function.get_concrete_function()
    module.weights = list(concrete.variables)  # without them the file has no signature
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
    runner = interpreter.Interpreter(model_content=converter.convert()).get_signature_runner()
    names = set(runner.get_input_details())
    batches = (zip((spec.name for spec in specs), batch, strict=True) for batch in batches)
    return [runner(**{name: x for name, x in batch if name in names}) for batch in batches]


RUNTIMES = {"ONNX Runtime": in_onnx_runtime, "LiteRT": in_litert}


def assert_portable(function, specs, batches):
    """Checks that the graph of a function for other runtimes returns what the function returns,
    without operations that other runtimes lack.

    Args:
        function: returns a dictionary of tensors.
        specs: list of `tf.TensorSpec`.
        batches: list of tuples of arrays.
    """
    concrete = traced(function, *specs)
    assert not operations(concrete) & WITHOUT_COUNTERPART
    assert not adds_axes_to_bool(concrete)
    assert_equal(function, batches, [concrete(*map(tf.constant, batch)) for batch in batches])


def assert_equal(function, batches, results):
    for batch, result in zip(batches, results, strict=True):
        expected = function(*map(tf.constant, batch))
        assert set(result) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(result[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
