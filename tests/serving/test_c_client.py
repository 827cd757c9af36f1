"""The client in C: it loads exports through the C API of the installed TensorFlow."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from docs.pages import ROOT, blocks
from models.small_transformers import randomised, translation_model
from serving.small_language_models import D, expected_score, exported, make_model

from tfmoe.data_pipelines.subwords import Subwords
from tfmoe.gating import NoisyTopK
from tfmoe.layers import MoE, ProjectedLSTM
from tfmoe.serving.frozen_weights import FrozenWeights
from tfmoe.serving.saved_model import exported_module, write_saved_model
from tfmoe.serving.translation import ServingTranslator
from tfmoe.serving.translator import Translator

GUIDE = ROOT / "docs" / "guides" / "export_and_serve.md"
LIBRARY = pathlib.Path(tf.sysconfig.get_lib()) / "libtensorflow_cc.so.2"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed"),
    pytest.mark.skipif(not LIBRARY.exists(), reason=f"this TensorFlow has no {LIBRARY.name}"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The path of the program, compiled with the guide's command and without a warning."""
    folder = tmp_path_factory.mktemp("c")
    (folder / "docs").symlink_to(ROOT / "docs")
    (command,) = (b.text for b in blocks(GUIDE.read_text(encoding="utf-8")) if "gcc" in b.text)
    command = command.replace("gcc -O2", "gcc -O2 -std=c11 -Wall -Wextra -Wpedantic -Werror")
    path = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    subprocess.run(["bash", "-euc", command], cwd=folder, env=environment, check=True)
    return folder / "predict"


@pytest.fixture(scope="module")
def predict(program):
    """A function that runs the program: its exit status, standard output and standard error."""

    def predict(*arguments):
        arguments = [str(program), *map(str, arguments)]
        environment = {"TF_CPP_MIN_LOG_LEVEL": "3"}  # no PATH: Python is not to be found
        done = subprocess.run(arguments, capture_output=True, text=True, env=environment)
        return done.returncode, done.stdout, done.stderr

    return predict


@pytest.fixture(scope="module")
def answer(predict):
    """A function that calls a signature and returns its outputs as arrays."""

    def answer(*arguments):
        status, out, err = predict(*arguments)
        assert status == 0, err
        return {name: np.array(values) for name, values in json.loads(out).items()}

    return answer


def rows(name, values):
    return [f"{name}={','.join(map(repr, row.ravel().tolist()))}" for row in values]


@pytest.mark.parametrize("num_experts", [8, 100])
def test_features(answer, tmp_path, num_experts):
    """Batches of 1 and 64 rows of numbers, of any shape, as Keras computes them."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input([3, D], name="features")
    layer = MoE(num_experts, 16, gate=NoisyTopK(k=2), kernel_initializer="he_normal")
    model = keras.Model(inputs, layer(inputs))
    model.export(tmp_path / "1", verbose=False)
    x = np.random.default_rng(0).normal(size=(64, 3, D)).astype("float32")
    expected = model(x, training=False).numpy()
    assert np.abs(expected).max() > 0.1
    for batch in (x, x[:1]):
        (outputs,) = answer(tmp_path / "1", "serving_default", *rows("features", batch)).values()
        np.testing.assert_allclose(outputs, expected[: len(batch)], atol=1e-5)


def test_token_ids(answer, tmp_path):
    inputs = keras.Input([None], dtype="int32", name="ids")
    features = keras.layers.Embedding(9, D, embeddings_initializer="normal")(inputs)
    model = keras.Model(inputs, MoE(8, 16, gate=NoisyTopK(k=2))(features))
    model.export(tmp_path / "1", verbose=False)
    ids = np.random.default_rng(0).integers(9, size=(5, 7), dtype=np.int32)
    (outputs,) = answer(tmp_path / "1", "serving_default", *rows("ids", ids)).values()
    np.testing.assert_allclose(outputs, model(ids, training=False), atol=1e-5)


@pytest.fixture(scope="module")
def language_model():
    lstm = ProjectedLSTM(D, return_sequences=True)
    return make_model([lstm, MoE(8, 5, gate=NoisyTopK(k=2), name="moe")])


@pytest.fixture(scope="module")
def saved(language_model, tmp_path_factory):
    """The SavedModel of a language model, and its functions in Python."""
    module, functions = exported(language_model)
    path = write_saved_model(tmp_path_factory.mktemp("language"), 1, module, functions, {})
    return path, functions


def test_score(answer, language_model, saved):
    sentences = ["a b c", "h g f e d c b a a", "x a", ""]
    outputs = answer(saved[0], "score", *(f"sentences={sentence}" for sentence in sentences))
    assert outputs["token_count"].tolist() == [4, 10, 3, 1]
    assert outputs["tokens"][2].tolist() == ["<UNK>", "a", "</S>"] + [""] * 7
    for row, sentence in enumerate(sentences):
        expected = expected_score(language_model, sentence)
        values = outputs["token_log_probabilities"][row]
        np.testing.assert_allclose(values[: len(expected)], expected, atol=1e-5)


def test_generate(answer, saved):
    path, functions = saved
    requests = [("a b", 7, 1.5, 3), ("c", 4, 0.0, 4)]
    prefix, length, temperature, seed = (list(column) for column in zip(*requests, strict=True))
    expected = functions["generate"](
        prefix=tf.constant(prefix),
        length=tf.constant(length),
        temperature=tf.constant(temperature),
        seed=tf.constant(seed),
    )
    names = ("prefix", "length", "temperature", "seed")
    outputs = answer(
        path, "generate", *(f"{n}={v}" for r in requests for n, v in zip(names, r, strict=True))
    )
    assert set(outputs) == set(expected)
    for name, values in outputs.items():
        values_in_python = expected[name].numpy()
        if values_in_python.dtype == object:
            values_in_python = values_in_python.astype("U")
        assert values.tolist() == values_in_python.tolist()


def test_description_of_a_signature(predict, saved):
    status, out, _ = predict(saved[0], "next_token")
    assert status == 0
    assert sorted(out.splitlines()) == [
        "input prefix string [?]",
        "output probabilities float32 [?, 11]",
        "output words string [?, 11]",
    ]


GENERATE = ["prefix=a", "length=1", "temperature=0", "seed=1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: predict"),
        (["sample"], "there is no signature 'sample'; the model has: "),
        (["score", "sentence=a"], "'sentence=a' is not NAME=VALUE with the name of an input"),
        (["generate", *GENERATE[:3]], "the input seed is missing: seed=VALUE"),
        (["generate", *GENERATE[:3], "seed=1.5"], "a value of seed is not int32: '1.5'"),
        (["generate", *GENERATE[:3], "seed=9999999999"], "a value of seed is not int32"),
        (["generate", *GENERATE[:3], "seed=1,2"], "a row of seed needs 1 values, got 2"),
        (["generate", *GENERATE, "length=-1", "prefix=b"], "length must be from 0 to 10000"),
    ],
)
def test_errors(predict, saved, arguments, message):
    status, out, err = predict(saved[0], *arguments)
    assert (status, out) == (1, "") and message in err


def test_folder_without_a_model(predict, tmp_path):
    status, _, err = predict(tmp_path, "score")
    assert status == 1 and f"predict: {tmp_path}: " in err


def test_translation_with_the_library_of_its_tokenizer(answer, predict, tmp_path):
    text = pytest.importorskip("tensorflow_text")
    subwords = Subwords.train([f"{a} {b}" for a in ("one", "two") for b in ("four", "six")], 30)
    model = randomised(translation_model(len(subwords)))
    translator = Translator(model, subwords.tokenizer(), {}, beam_size=2, num_best=2)
    weights = FrozenWeights(model)
    pieces = [subwords.piece(index) for index in range(len(subwords))]
    functions = ServingTranslator(translator, weights, pieces)
    resources = {"weights": weights.variables, **functions.resources}
    signatures = {"translate": functions.signatures()["translate"]}
    module, concrete = exported_module(signatures, "translate", resources)
    path = write_saved_model(tmp_path, 1, module, concrete, {})

    sentences = ["one four", "", "six six two"]
    inputs = [path, "translate", *(f"sentences={sentence}" for sentence in sentences)]
    status, _, err = predict(*inputs)
    assert status == 1 and "SentencepieceOp" in err
    library = pathlib.Path(text.__file__).parent / "python" / "ops" / "_sentencepiece_tokenizer.so"
    outputs = answer("--library", library, *inputs)
    translations, scores = translator.translate(tf.constant(sentences), 0)
    assert outputs["translations"].tolist() == translations.numpy().astype("U").tolist()
    np.testing.assert_allclose(outputs["scores"], scores, atol=1e-5)
