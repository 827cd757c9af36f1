"""Exports of runs as functions on ids, and the clients of docs/serving that call them."""

import importlib
import json
import runpy
import subprocess

import numpy as np
import pytest
import tensorflow as tf
from serving.small_portable_models import CLIENTS, has_node_packages, require_packages
from tasks.started_run import started_run

from tfmoe.config import load_config
from tfmoe.data_pipelines import Subwords, Vocabulary
from tfmoe.serving.saved_model import sha256
from tfmoe.tasks import export_run, load_run, task_of
from tfmoe.tasks.export_portable import export_portable

pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")

LANGUAGE_MODEL = """\
model:
  name: language_model
  d_model: 8
  blocks:
    - {name: lstm, units: 8}
    - {name: feed_forward, hidden_units: 5}
    - {name: self_attention, num_heads: 2}
data: {name: grammars, grammars: 2, symbols: 3, successors: 2, train_sentences: 9, max_length: 5}
"""
TRANSLATION = """\
model:
  name: translation
  d_model: 8
  encoder:
    - {name: lstm, units: 8}
  decoder:
    - {name: attention_lstm, units: 8}
    - {name: self_attention, num_heads: 2}
data: {name: embedded_translation, pairs: [en-fr, en-de], max_length: 12}
"""
WORDS = ["</S>", "<S>", "<UNK>", "a", "b", "c", "d"]
SENTENCES = ["a b c d", "", "b <S> 猫 a b c d a", "d"]
TEXT = [f"{a} {b}" for a in ("one", "two", "three") for b in ("four", "five", "six")]
SOURCES = ["one two", "", " six  five", "four 猫猫 three", "two " * 5]
PYTHON = pytest.mark.parametrize("format", ["onnx", pytest.param("litert", marks=pytest.mark.slow)])
NODE = pytest.mark.skipif(
    not has_node_packages(), reason="node or @tensorflow/tfjs-core is missing"
)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A function that writes a run after 0 training steps with larger weights."""
    folder = tmp_path_factory.mktemp("runs")

    def start(name, text, vocabulary, *overrides):
        (folder / f"{name}.yaml").write_text(text)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TFMOE_CACHE", str(folder / "cache"))
            config = load_config(folder / f"{name}.yaml", overrides)
            run, model, state = started_run(config, folder / name, vocabulary)
        rng = np.random.default_rng(0)
        for weight in model.trainable_weights:
            weight.assign(rng.standard_normal(weight.shape) * 0.7)
        state.save_best()
        return run.path

    return start


@pytest.fixture(scope="module")
def language_run(start):
    return start("language_model", LANGUAGE_MODEL, Vocabulary(WORDS))


@pytest.fixture(scope="module")
def translation_run(start):
    subwords = Subwords.train(TEXT, 40, languages=["fr", "de"])
    return start("translation", TRANSLATION, subwords)


def expected_scores(run):
    """The log-probabilities and counts that the run's model computes."""
    config, vocabulary, model = load_run(run)
    ids = [vocabulary.encode(sentence.split()) for sentence in SENTENCES]
    width = max(map(len, ids))
    rows = np.array([[*each, *[0] * (width - len(each))] for each in ids], np.int32)
    outputs = task_of(config).portable(model).score(tf.constant(rows))
    return outputs["log_probability"].numpy(), outputs["token_count"].numpy()


def greedy_words(run, prefix, length):
    """The most probable words one after the other, by calls of the whole model."""
    config, vocabulary, model = load_run(run)
    ids = [1, *vocabulary.encode(prefix.split())]
    for _ in range(length):
        start = (len(ids) - 1) // config.data.max_length * config.data.max_length
        logits = model.word_logits(model(np.array([ids[start:]])))[0, -1].numpy()
        logits[1:3] = -np.inf
        if not logits.argmax():
            break
        ids.append(int(logits.argmax()))
    return " ".join(vocabulary.decode(ids[1:])[len(prefix.split()) :])


def greedy_translation(run, sentence, language):
    """The most probable subwords one after the other, by calls of the whole decoder."""
    _, subwords, model = load_run(run)
    source = [[subwords.language_id(language), *subwords.encode(sentence)]]
    memory, target = model.encode(tf.constant(source)), [1]
    for _ in range(2 * len(source[0]) + 10):
        features = model.decode(tf.constant([target]), *memory)
        target.append(int(tf.argmax(model.word_logits(features)[0, -1])))
        if not target[-1]:
            break
    return subwords.decode(target[1:]) if sentence else ""


def test_files_and_manifest(language_run, tmp_path, capsys):
    out = tmp_path / "out"
    text = export_run(language_run, out, format="tfjs")
    assert text.startswith(f"{out}: score, step for TensorFlow.js; 0.")
    assert text.endswith(f"\n  node docs/serving/tfjs_client.js {out} score 'a b c'")
    assert (
        "largest difference between Keras and the written files in Tens" in capsys.readouterr().out
    )
    names = {"manifest.json", "vocabulary.txt", "weights.bin"}
    names |= {f"{name}.{kind}" for name in ("score", "step") for kind in ("json", "bin")}
    assert {path.name for path in out.iterdir()} == names
    assert (out / "vocabulary.txt").read_text().split("\n") == [*WORDS, ""]
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["format"], manifest["model"]) == ("tfjs", "language_model")
    assert manifest["vocabulary"] == {
        "file": "vocabulary.txt", "size": 7, "end": 0, "start": 1, "unknown": 2, "languages": {},
    }  # fmt: skip
    assert (manifest["max_length"], manifest["never_generated"]) == (5, [1, 2])
    assert manifest["signatures"]["step"]["outputs"]["logits"] == "float32 [?, 7]"
    assert manifest["signatures"]["score"]["inputs"] == {"ids": "int32 [?, ?]"}
    lstm, position, keys = (manifest["states"][index] for index in (0, 2, 3))
    assert lstm == {
        "input": "state_0", "output": "next_state_0", "dtype": "float32", "shape": [None, 8],
    }  # fmt: skip
    assert (position["dtype"], position["shape"]) == ("int32", [None])
    assert keys["shape"] == [None, 2, 5, 4]
    assert manifest["largest_difference"] < 1e-5
    assert set(manifest["files"]) == {path.name for path in out.iterdir()} - {"manifest.json"}
    assert manifest["files"]["step.json"] == sha256(out / "step.json")
    with pytest.raises(FileExistsError, match="out already exists and is not overwritten"):
        export_run(language_run, out, format="tfjs")


def test_a_model_whose_answers_depend_on_the_batch(start, tmp_path):
    block = "{name: moe, num_experts: 4, hidden_units: 5, gate: {name: expert_choice}}"
    text = LANGUAGE_MODEL.replace("{name: feed_forward, hidden_units: 5}", block)
    run = start("expert_choice", text, Vocabulary(WORDS))
    for format in ("onnx", "litert", "tfjs"):
        require_packages(format)
        with pytest.raises(ValueError, match="with the gate ExpertChoice cannot be exported"):
            export_run(run, tmp_path / "out", format=format)
    assert not list(tmp_path.iterdir())


QUICK = ["tfjs", *(pytest.param(format, marks=pytest.mark.slow) for format in ("onnx", "litert"))]


@pytest.mark.parametrize("format", QUICK)
def test_no_file_is_left_of_a_function_that_a_format_cannot_hold(language_run, format, tmp_path):
    require_packages(format)
    runtime = importlib.import_module(f"tfmoe.tasks.export_{format}").RUNTIME

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")], autograph=False)
    def gamma(x):
        return {"y": tf.math.igamma(x, 2 * x)}

    def write(folder, functions):
        runtime.write(folder, {**functions, "gamma": gamma})

    with pytest.raises(ValueError, match=r"cannot hold the .*: it has no operation Igamma"):
        export_portable(
            language_run, tmp_path / "out", "best", format, runtime._replace(write=write)
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_model_that_computes_in_bfloat16(start, tmp_path):
    run = start("half", LANGUAGE_MODEL, Vocabulary(WORDS), "training.dtype_policy=mixed_bfloat16")
    export_run(run, tmp_path / "out", format="tfjs")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {state["dtype"] for state in manifest["states"]} == {"float32", "int32"}
    assert manifest["largest_difference"] < 1e-5


@PYTHON
def test_python_client_with_a_language_model(language_run, format, tmp_path, capsys, monkeypatch):
    require_packages(format)
    export_run(language_run, tmp_path / "out", format=format)
    program = CLIENTS / "portable_client.py"
    model = runpy.run_path(str(program))["LanguageModel"](tmp_path / "out")
    scores, counts = model.score(SENTENCES)
    expected, expected_counts = expected_scores(language_run)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert counts.tolist() == expected_counts.tolist()
    capsys.readouterr()
    arguments = ["client", str(tmp_path / "out"), "generate", "a b", "--length", "6"]
    monkeypatch.setattr("sys.argv", arguments)
    runpy.run_path(str(program), run_name="__main__")
    lines = capsys.readouterr().out.split("\n")
    assert lines == [greedy_words(language_run, "a b", 6), ""]


@pytest.mark.slow
@PYTHON
def test_python_client_with_a_translation_model(translation_run, format, tmp_path):
    require_packages(format)
    export_run(translation_run, tmp_path / "out", format=format)
    client = runpy.run_path(str(CLIENTS / "portable_client.py"))
    model = client["TranslationModel"](tmp_path / "out")
    expected = [greedy_translation(translation_run, source, "de") for source in SOURCES]
    assert model.translate(SOURCES, "de") == expected
    with pytest.raises(ValueError, match="--language must be one of fr, de, got it"):
        model.translate(SOURCES, "it")


def node(*arguments):
    """The standard output of the client for TensorFlow.js, a list of lines."""
    program = [str(CLIENTS / "tfjs_client.js"), *map(str, arguments)]
    done = subprocess.run(["node", *program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.removesuffix("\n").split("\n")


@NODE
@pytest.mark.slow
def test_node_client_with_a_language_model(language_run, tmp_path):
    export_run(language_run, tmp_path / "out", format="tfjs")
    lines = [line.split() for line in node(tmp_path / "out", "score", *SENTENCES)]
    expected, counts = expected_scores(language_run)
    np.testing.assert_allclose([float(score) for score, _ in lines], expected, atol=1e-5)
    assert [int(count) for _, count in lines] == counts.tolist()
    lines = node(tmp_path / "out", "generate", "a b", "", "--length", 9)
    assert lines == [greedy_words(language_run, prefix, 9) for prefix in ("a b", "")]


@NODE
@pytest.mark.slow
def test_node_client_with_a_translation_model(translation_run, tmp_path):
    export_run(translation_run, tmp_path / "out", format="tfjs")
    lines = node(tmp_path / "out", "translate", *SOURCES, "--language", "fr")
    assert lines == [greedy_translation(translation_run, source, "fr") for source in SOURCES]


@NODE
@pytest.mark.slow
def test_subwords_in_node(tmp_path):
    sentences = [f"{a} {b}  {c}" for a in TEXT[:4] for b in ("猫猫 x", "", "▁") for c in ("Fivé",)]
    subwords = Subwords.train([*TEXT, "thirteen fourteen fifteen"] * 3, 60, languages=["fr"])
    subwords.save(tmp_path / "vocabulary.model")
    (tmp_path / "sentences.json").write_text(json.dumps(sentences))
    script = (
        "const [client, model, file] = process.argv.slice(1);"
        "const {encode, decode} = require(client).subwords(model, {unknown: 2});"
        "const ids = JSON.parse(require('fs').readFileSync(file)).map(encode);"
        "console.log(JSON.stringify([ids, ids.map(decode)]))"
    )
    paths = [
        CLIENTS / "tfjs_client.js",
        *(tmp_path / n for n in ("vocabulary.model", "sentences.json")),
    ]
    done = subprocess.run(["node", "-e", script, *map(str, paths)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ids, text = json.loads(done.stdout.splitlines()[-1])
    assert ids == [subwords.encode(sentence) for sentence in sentences]
    assert text == [subwords.decode(each) for each in ids]


def test_a_package_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("tfmoe.extras.is_installed", lambda package: package != "tf2onnx")
    with pytest.raises(ModuleNotFoundError, match=r'tf2onnx: pip install "tfmoe\[serving\]"'):
        export_run(tmp_path / "no run", tmp_path / "out", format="onnx")
