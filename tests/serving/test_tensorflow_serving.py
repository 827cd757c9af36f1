"""Exports behind the API of TensorFlow Serving, with the requests of its guide."""

import concurrent.futures
import json
import re

import numpy as np
import pytest
import tensorflow as tf
from docs.pages import ROOT, blocks
from serving import small_language_models, small_translation_models
from serving.model_server import ModelServer, predict_pb2, service_pb2_grpc

from tfmoe.gating import NoisyTopK
from tfmoe.layers import MoE
from tfmoe.serving.saved_model import write_saved_model

grpc = pytest.importorskip("grpc")

GUIDE = ROOT / "docs" / "guides" / "tensorflow_serving.md"
REFERENCE = ROOT / "docs" / "reference" / "signatures.md"
CODE = re.compile(r"`([^`]+)`")
MIXTURE = re.compile(r"\w+(?=_(experts|gates)$)")


def language_model(folder):
    mixture = MoE(4, 5, gate=NoisyTopK(k=2), name="moe")
    model = small_language_models.make_model([mixture])
    return write_saved_model(folder, 1, *small_language_models.exported(model, top=3), {})


def translation_model(folder, languages=()):
    _, module, functions = small_translation_models.exported(list(languages))
    return write_saved_model(folder, 1, module, functions, {})


def multilingual_model(folder):
    return translation_model(folder, ["de", "fr"])


MODELS = {
    "language": language_model,
    "translation": translation_model,
    "multilingual": multilingual_model,
}
by_model = pytest.mark.parametrize(
    "server",
    ["language", *(pytest.param(name, marks=pytest.mark.slow) for name in list(MODELS)[1:])],
    indirect=True,
)


@pytest.fixture(scope="module")
def server(request, tmp_path_factory):
    """The `ModelServer` of a model, and its name."""
    path = MODELS[request.param](tmp_path_factory.mktemp("served"))
    return ModelServer(path), request.param


def documented_requests():
    """Yields the requests of the guide and their answers, `None` if it has none, with the name of
    the model that answers.
    """
    for section in GUIDE.read_text(encoding="utf-8").split("\n### ")[1:]:
        jsons = [json.loads(b.text) for b in blocks(section) if b.language == "json"]
        is_translation = section.startswith(("translate", "route of"))
        for body, answer in zip(jsons, [*jsons[1:], {}], strict=True):
            if {"inputs", "instances"} & set(body):
                model = "translation" if is_translation else "language"
                has_language = "language" in body.get("inputs", {})
                is_answer = {"outputs", "predictions"} & set(answer)
                yield body, answer if is_answer else None, "multilingual" if has_language else model


def kinds(value):
    """The types and names in a JSON value; the mixtures of all models have one name."""
    if isinstance(value, dict):
        return {MIXTURE.sub("MIXTURE", key): kinds(each) for key, each in value.items()}
    if isinstance(value, list):
        (kind,) = {json.dumps(kinds(each), sort_keys=True) for each in value}
        return [json.loads(kind)]
    return type(value).__name__


@by_model
def test_requests_of_the_guide(server):
    server, name = server
    requests = [(body, answer) for body, answer, model in documented_requests() if model == name]
    assert requests
    for body, documented in requests:
        answer = json.loads(server.post(json.dumps(body)))
        (size,) = {len(values) for values in rows(body)}
        assert {len(values) for values in rows(answer)} == {size}
        if documented is not None:
            assert kinds(documented) == kinds(answer), body
            assert {len(values) for values in rows(documented)} == {size}


def rows(message):
    """The values of each name that have one for each sentence."""
    (values,) = (value for key, value in message.items() if key != "signature_name")
    if isinstance(values, list):
        return [values]
    return [each for name, each in values.items() if name not in ("length", "temperature", "seed")]


@by_model
def test_reference(server):
    """The tables of the reference have every input and output, its type and its rank."""
    server, name = server
    text = REFERENCE.read_text(encoding="utf-8")
    sections = {each.partition("\n")[0]: each for each in text.split("\n### ")}
    for signature in set(server.signatures) - {"serving_default", "__saved_model_init_op"}:
        is_routing = signature == "route" and name != "language"
        section = sections["route of a translation" if is_routing else signature]
        documented = documented_tensors(section)
        definition = server.signatures[signature]
        for kind, tensors in (("in", definition.inputs), ("out", definition.outputs)):
            expected = {key: value for (k, key), value in documented.items() if k == kind}
            if name == "translation":
                expected.pop("language", None)
            assert {MIXTURE.sub("MIXTURE", key) for key in tensors} == set(expected)
            for key, info in tensors.items():
                dtype, rank = expected[MIXTURE.sub("MIXTURE", key)]
                assert dtype in (None, tf.as_dtype(info.dtype).name), key
                assert rank in (None, len(info.tensor_shape.dim)), key
                assert info.tensor_shape.dim[0].size == -1


def documented_tensors(section):
    """`{(in or out, name): (type, rank)}` of a section of the reference; `None` if not given."""
    found = {}
    for row in re.findall(r"^\| (in|out): (.+?) \| (.+?) \|", section, re.MULTILINE):
        kind, names, form = row
        shapes = [shape for shape in CODE.findall(form) if shape.startswith("[")]
        dtype = form.split()[0] if form[0] not in "`a" else None
        rank = shapes[-1].count(",") + 1 if shapes else None
        found |= {(kind, name): (dtype, rank) for name in CODE.findall(names)}
    return found


@pytest.mark.parametrize("server", ["language"], indirect=True)
def test_rows_and_columns(server):
    server, _ = server
    columns = {"prefix": ["a b", "c"], "length": [4, 3], "temperature": [0.7, 1], "seed": [1, 2]}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    by_column = post(server, signature_name="generate", inputs=columns)["outputs"]
    by_row = post(server, signature_name="generate", instances=rows)["predictions"]
    assert by_row == [{key: by_column[key][i] for key in by_column} for i in range(2)]
    named = post(server, inputs={"sentences": ["a b", "c"]})
    assert named == post(server, inputs=["a b", "c"]) and named["outputs"]["token_count"] == [3, 2]
    named = post(server, instances=[{"sentences": "a b"}, {"sentences": "c"}])
    assert named == post(server, instances=["a b", "c"])


@pytest.mark.parametrize("server", ["language"], indirect=True)
def test_strings_and_bytes(server):
    """`/w==` is the byte 0xFF, which is no UTF-8: an unknown word. `YQ==` is "a"."""
    server, _ = server
    sentences = [{"b64": "YQ=="}, {"b64": "/w=="}, "a", "", "猫 a"]
    tokens = post(server, inputs={"sentences": sentences})["outputs"]["tokens"]
    assert tokens[0] == tokens[2] == ["a", "</S>", ""]
    assert tokens[1] == ["<UNK>", "</S>", ""] and tokens[3] == ["</S>", "", ""]
    assert tokens[4] == ["<UNK>", "a", "</S>"]


def post(server, **body):
    return json.loads(server.post(json.dumps(body)))


@pytest.mark.parametrize("server", ["language"], indirect=True)
def test_client_of_the_guide(server):
    """The guide's client in Python, over gRPC."""
    server, _ = server
    (block,) = (b for b in blocks(GUIDE.read_text(encoding="utf-8")) if b.language == "python")
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        service = grpc.server(executor)
        service_pb2_grpc.add_PredictionServiceServicer_to_server(server, service)
        port = service.add_insecure_port("localhost:0")
        service.start()
        names = {}
        exec(block.text.replace("localhost:8500", f"localhost:{port}"), names)
        names["channel"].close()
        service.stop(None).wait()
    assert len(names["text"]) == 2 and len(names["text"][0].split()) <= 4
    described = names["signatures"].signature_def
    assert set(described) >= {"score", "next_token", "generate", "route", "serving_default"}
    assert {info.name for info in described["generate"].inputs.values()} == {
        f"generate_{key}:0" for key in ("prefix", "length", "temperature", "seed")
    }


def tensors_of_requests(name):
    """`{signature: requests}` of different sizes."""
    if name == "language":
        sentences = [["a b c", "h g f e d c"], ["a"], ["", "x a"]]
        controls = [([9, 2], [1.0, 0.0], [1, 2]), ([3], [0.5], [3]), ([1, 0], [2.0, 1.0], [4, 5])]
        generation = [
            {
                "prefix": np.array(prefix, object),
                "length": np.array(length, np.int32),
                "temperature": np.array(temperature, np.float32),
                "seed": np.array(seed, np.int32),
            }
            for prefix, (length, temperature, seed) in zip(sentences, controls, strict=True)
        ]
        texts = [np.array(each, object) for each in sentences]
        scored = [{"sentences": each} for each in texts]
        prefixes = [{"prefix": each} for each in texts]
        with_ids = [{"ids": ids} for ids in padded([[[3, 4, 5], [9]], [[4]], [[], [6, 3]]])]
        controls = [{**request, **ids} for request, ids in zip(generation, with_ids, strict=True)]
        return {
            "score": scored,
            "route": scored,
            "next_token": prefixes,
            "generate": generation,
            "score_ids": with_ids,
            "next_token_ids": with_ids,
            "generate_ids": [{k: r[k] for k in r if k != "prefix"} for r in controls],
        }
    sentences = [["one two", "six five two one"], ["three"], ["", "six"]]
    requests = [{"sentences": np.array(each, object)} for each in sentences]
    with_ids = [{"ids": ids} for ids in padded([[[3, 4, 5], [9]], [[4]], [[], [6, 3]]])]
    if name == "multilingual":
        languages = [["de", "fr"], ["fr"], ["de"] * 2]
        for request, ids, language in zip(requests, with_ids, languages, strict=True):
            request["language"] = ids["language"] = np.array(language, object)
    return {"translate": requests, "route": requests, "translate_ids": with_ids}


def padded(requests):
    """The ids of sentences, those of all requests of one width."""
    width = max(len(ids) for request in requests for ids in request)
    return [np.array([ids + [0] * (width - len(ids)) for ids in r], np.int32) for r in requests]


@by_model
def test_joined_requests(server):
    """Requests that are answered in one batch get what they would get alone, with more padding."""
    server, name = server
    for signature, requests in tensors_of_requests(name).items():
        answers = server.run_joined(signature, requests, size=8)
        for request, answer in zip(requests, answers, strict=True):
            for key, alone in server.run(signature, request).items():
                check_padded(answer[key], alone, (signature, key))


def check_padded(joined, alone, key):
    assert len(joined) == len(alone), key
    part = joined[tuple(slice(size) for size in alone.shape)]
    assert part.shape == alone.shape, key
    if alone.dtype.kind == "f":
        np.testing.assert_allclose(part, alone, atol=1e-5, err_msg=str(key))
    else:
        assert (part == alone).all(), key
    padding = np.ones(joined.shape, bool)
    padding[tuple(slice(size) for size in alone.shape)] = False
    value = b"" if alone.dtype == object else -1 if key[1].endswith("_experts") else 0
    assert (joined[padding] == value).all(), key


@pytest.mark.parametrize("server", ["language"], indirect=True)
def test_answers_of_requests(server):
    """A request carries the types of the signature, and its response those of the outputs."""
    server, name = server
    for signature, (tensors, *_) in tensors_of_requests(name).items():
        request = predict_pb2.PredictRequest()
        request.model_spec.signature_name = signature
        definition = server.signatures[signature]
        for key, value in tensors.items():
            dtype = definition.inputs[key].dtype
            request.inputs[key].CopyFrom(tf.make_tensor_proto(value.tolist(), dtype))
        request = predict_pb2.PredictRequest.FromString(request.SerializeToString())
        response = server.Predict(request)
        assert set(response.outputs) == set(definition.outputs)
        for key, value in server.run(signature, tensors).items():
            proto = response.outputs[key]
            assert proto.dtype == definition.outputs[key].dtype
            assert (tf.make_ndarray(proto) == value).all()
        request.output_filter.append(key)
        assert set(server.Predict(request).outputs) == {key}
