"""A stand-in for TensorFlow Serving, whose server is no Python package.

It answers the messages of `tensorflow-serving-api` as the sources of TensorFlow Serving say:
`predict_util.cc` (requests), `json_tensor.cc` (REST), `batching_session.cc` (joined requests).
"""

import base64
import json

import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("tensorflow_serving", reason="tensorflow-serving-api is not installed")
predict_pb2 = pytest.importorskip("tensorflow_serving.apis.predict_pb2")
metadata_pb2 = pytest.importorskip("tensorflow_serving.apis.get_model_metadata_pb2")
service_pb2_grpc = pytest.importorskip("tensorflow_serving.apis.prediction_service_pb2_grpc")

INTEGERS = {tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint16, tf.uint32, tf.uint64}


class ModelServer(service_pb2_grpc.PredictionServiceServicer):
    """Serves a SavedModel.

    Args:
        path: the folder of a version.
    """

    def __init__(self, path):
        with tf.Graph().as_default() as graph:
            config = tf.compat.v1.ConfigProto()
            # Optimization of the graphs takes longer than their few calls.
            config.graph_options.rewrite_options.disable_meta_optimizer = True
            self.session = tf.compat.v1.Session(graph=graph, config=config)
            meta_graph = tf.compat.v1.saved_model.load(self.session, ["serve"], str(path))
        self.signatures = meta_graph.signature_def

    def Predict(self, request, context=None):
        """Answers a `PredictRequest` with a `PredictResponse`."""
        name = request.model_spec.signature_name or "serving_default"
        inputs = {key: tf.make_ndarray(proto) for key, proto in request.inputs.items()}
        outputs = self.run(name, inputs)
        response = predict_pb2.PredictResponse()
        response.model_spec.CopyFrom(request.model_spec)
        response.model_spec.signature_name = name
        for key in request.output_filter or outputs:
            response.outputs[key].CopyFrom(tf.make_tensor_proto(outputs[key]))
        return response

    def GetModelMetadata(self, request, context=None):
        """Answers a `GetModelMetadataRequest` for the metadata `signature_def`."""
        (field,) = request.metadata_field
        signatures = metadata_pb2.SignatureDefMap(signature_def=self.signatures)
        response = metadata_pb2.GetModelMetadataResponse(model_spec=request.model_spec)
        response.metadata[field].Pack(signatures)
        return response

    def run(self, name, inputs):
        """Calls the signature `name` with `{input: array}`, and returns `{output: array}`."""
        signature = self.signatures[name]
        if set(inputs) != set(signature.inputs):
            raise ValueError(f"{name} takes {set(signature.inputs)}, got {set(inputs)}")
        feeds = {signature.inputs[key].name: value for key, value in inputs.items()}
        return self.session.run({k: info.name for k, info in signature.outputs.items()}, feeds)

    def post(self, body):
        """Answers the body of `POST /v1/models/NAME:predict`, a JSON object, with another."""
        request = json.loads(body)
        name = request.get("signature_name", "serving_default")
        types = {key: tf.as_dtype(info.dtype) for key, info in self.signatures[name].inputs.items()}
        is_row = "instances" in request
        assert is_row != ("inputs" in request), "either instances or inputs"
        columns = columns_of_rows(request["instances"], types) if is_row else request["inputs"]
        if not isinstance(columns, dict) or is_bytes(columns):  # a single input without its name
            (only,) = types
            columns = {only: columns}
        outputs = self.run(name, {k: array(columns[k], dtype) for k, dtype in types.items()})
        values = {key: json_values(output) for key, output in outputs.items()}
        if not is_row:
            return json.dumps({"outputs": values if len(values) > 1 else only_value(values)})
        (size,) = {len(value) for value in values.values()}
        rows = [{key: value[i] for key, value in values.items()} for i in range(size)]
        return json.dumps({"predictions": rows if len(values) > 1 else [*map(only_value, rows)]})

    def run_joined(self, name, requests, size=None):
        """Answers several requests in one batch.

        Args:
            name: of the signature.
            requests: list of `{input: array}`.
            size: one of `allowed_batch_sizes`, to which the batch is filled; `None` for none.

        Returns:
            List of `{output: array}`, one for each request.
        """
        sizes = []
        for request in requests:
            (rows,) = {value.shape[0] for value in request.values()}  # fails for scalars
            sizes.append(rows)
        missing = (size or sum(sizes)) - sum(sizes)
        joined = {
            key: np.concatenate([*(r[key] for r in requests), *[requests[-1][key][:1]] * missing])
            for key in requests[0]
        }
        outputs = self.run(name, joined)
        assert {value.shape[0] for value in outputs.values()} == {sum(sizes) + missing}
        ends = np.cumsum(sizes)
        return [
            {key: value[end - rows : end] for key, value in outputs.items()}
            for rows, end in zip(sizes, ends, strict=True)
        ]


def columns_of_rows(rows, types):
    """Converts `instances` to `inputs`: each row must have every input."""
    if not isinstance(rows[0], dict) or is_bytes(rows[0]):
        return rows
    assert all(set(row) == set(types) for row in rows), "rows must have all inputs"
    return {key: [row[key] for row in rows] for key in types}


def is_bytes(value):
    """Whether a JSON value is an encoded string of bytes."""
    return isinstance(value, dict) and set(value) == {"b64"}


def only_value(values):
    (value,) = values.values()
    return value


def array(value, dtype):
    """Converts a JSON value to an array; numbers are not rounded, and must have the type."""
    leaves = []

    def shape(value):
        if isinstance(value, list):
            inner = {shape(each) for each in value} or {()}
            assert len(inner) == 1, "rows of different lengths"
            return (len(value), *inner.pop())
        leaves.append(leaf(value, dtype))
        return ()

    result = np.empty(shape(value), dtype.as_numpy_dtype)
    result.ravel()[:] = leaves
    return result


def leaf(value, dtype):
    if dtype == tf.string:
        return base64.b64decode(value["b64"]) if is_bytes(value) else value.encode()
    if dtype == tf.bool:
        valid = isinstance(value, bool)
    else:
        valid = isinstance(value, int if dtype in INTEGERS else (int, float)) and value is not True
    if not valid:
        raise TypeError(f"{value!r} is not of type {dtype.name}")
    return value


def json_values(output):
    """Converts an array to JSON values. No name of our outputs ends in `_bytes`, so strings must be
    UTF-8.
    """
    assert output.ndim, "an output without the axis of the batch"
    if output.dtype != object:
        return output.tolist()
    return np.vectorize(lambda each: each.decode(), otypes=[object])(output).tolist()
