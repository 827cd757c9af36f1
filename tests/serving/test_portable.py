"""Functions on ids, and the files that other runtimes read."""

import numpy as np
import pytest
import tensorflow as tf
from conformance.gates import GATES, RECURRENT, make_mixture
from serving.small_portable_models import (
    FORMATS,
    MAX_LENGTH,
    MODELS,
    VOCABULARY_SIZE,
    D,
    InNode,
    built,
    has_node_packages,
    lstm_language_model,
    lstm_translation,
    require_packages,
    transformer_language_model,
    transformer_translation,
)

from tfmoe.layers import MoELSTM, ProjectedLSTM
from tfmoe.models import LanguageModel, residual_blocks
from tfmoe.serving.explicit_states import States, random_sentences, zeros
from tfmoe.serving.exported import remove_evaluation_capacity
from tfmoe.serving.portable import ConversionError, largest_difference, traced
from tfmoe.serving.portable_language_model import PortableLanguageModel

END, START = 0, 1
SENTENCES = [[3, 4, 5, 6, 7, 8, 9, 3, 4], [3, 5], [], [7] * (MAX_LENGTH - 1), [8] * MAX_LENGTH]


def padded(sentences, width=None):
    width = max(map(len, sentences)) if width is None else width
    return np.array([[*ids, *[0] * (width - len(ids))] for ids in sentences], np.int32)


@pytest.fixture(scope="module", params=[lstm_language_model, transformer_language_model])
def language(request):
    return request.param()


@pytest.fixture(scope="module", params=[lstm_translation, transformer_translation])
def translation(request):
    return request.param()


def test_score_equals_evaluation_row_by_row(language):
    outputs = language.score(tf.constant(padded(SENTENCES)))
    assert outputs["token_count"].numpy().tolist() == [10, 3, 1, 4, 5]
    for row, ids in enumerate(SENTENCES):
        inputs, targets, expected = [START, *ids], [*ids, END], []
        for start in range(0, len(inputs), MAX_LENGTH):
            part = slice(start, start + MAX_LENGTH)
            arrays = (np.array([each[part]], np.int32) for each in (inputs, targets))
            expected += list(-language.model.negative_log_likelihood(*arrays).numpy())
        values = outputs["token_log_probabilities"][row].numpy()
        np.testing.assert_allclose(values[: len(expected)], expected, atol=1e-5)
        assert not values[len(expected) :].any()
        total = outputs["log_probability"][row].numpy()
        assert total == pytest.approx(sum(expected), abs=1e-4)


def test_steps_continue_a_sentence_beyond_the_longest_row(language):
    ids = SENTENCES[0]
    scores = language.score(tf.constant([ids]))["token_log_probabilities"][0].numpy()
    # The states of a new sentence are not read: they may be left over from another one.
    states = {name: x + 1 for name, x in zeros(language.states.inputs, 2, MAX_LENGTH).items()}
    for position, (word, target) in enumerate(zip([START, *ids], [*ids, END], strict=True)):
        inputs = np.array([word, 5], np.int32), np.full([2], position, np.int32), *states.values()
        outputs = language.step(*map(tf.constant, inputs))
        log_probabilities = tf.nn.log_softmax(outputs["logits"][0]).numpy()
        assert log_probabilities[target] == pytest.approx(scores[position], abs=1e-5)
        states = {name: outputs[f"next_{name}"].numpy() for name in states}


def test_decoding_steps_equal_teacher_forcing(translation):
    model = translation.model
    source, target = padded([[3, 4, 5], [6, 0, 0]]), padded([[START, 7, 8], [START, 9, 10]])
    features = model.decode(target, *model.encode(source))
    expected = tf.nn.log_softmax(model.word_logits(features)).numpy()
    memories = translation.encode(tf.constant(source))
    assert [spec.name for spec in translation.memories] == list(memories)
    states = zeros(translation.states.inputs, 2, 3)
    for step in range(3):
        inputs = tf.constant(target[:, step]), *memories.values(), *states.values()
        outputs = translation.decode_step(*inputs)
        np.testing.assert_allclose(outputs["log_probabilities"], expected[:, step], atol=1e-5)
        np.testing.assert_allclose(tf.reduce_sum(outputs["attention"], axis=1), 1, atol=1e-5)
        assert not outputs["attention"][1, 1:].numpy().any()  # of padding
        states = {name: outputs[f"next_{name}"].numpy() for name in states}


def written(portable, format, folder):
    """The functions of a model, loaded from the files of a format."""
    require_packages(format)
    write, load = FORMATS[format]
    signatures = portable.signatures()
    write(folder, traced(signatures))
    return load(folder, list(signatures))


# The quickest conversions; `test_batches` has all.
@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("lstm_language_model", "tfjs"),
        ("lstm_translation", "tfjs"),
        pytest.param("lstm_translation", "onnx", marks=pytest.mark.slow),
        ("lstm_language_model", "litert"),
    ],
)
def test_files_equal_the_model(name, format, tmp_path):
    portable = MODELS[name]()
    loaded = written(portable, format, tmp_path)
    assert largest_difference(portable.signatures(), loaded, portable.samples()) < 1e-5


def samples(portable, batch):
    """Calls of all functions of a model with a batch of random ids."""
    rng = np.random.default_rng(batch)
    lengths = [7, *rng.integers(1, 7, batch - 1)]
    ids = random_sentences(rng, VOCABULARY_SIZE, lengths)
    first, step = portable.signatures().values()
    yield first.function.__name__, {first.inputs[0].name: ids}
    given = {"ids": ids[:, 0], "positions": np.full([batch], 1, np.int32)}
    if first.inputs[0].name == "source":
        given |= {name: x.numpy() for name, x in portable.encode(tf.constant(ids)).items()}
    states = {
        name: (rng.random(x.shape) + x).astype(x.dtype)
        for name, x in zeros(portable.states.inputs, batch, MAX_LENGTH).items()
    }
    given |= {name: x if x.dtype.kind == "f" else x + 1 for name, x in states.items()}
    yield step.function.__name__, {spec.name: given[spec.name] for spec in step.inputs}


def one_by_one(calls):
    """The calls of each sentence of batches."""
    for name, inputs in calls:
        for row in range(len(next(iter(inputs.values())))):
            yield name, {key: x[row : row + 1] for key, x in inputs.items()}


@pytest.mark.slow
@pytest.mark.parametrize("num_experts", [None, 8, 100])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", MODELS)
def test_batches(name, format, num_experts, tmp_path):
    portable = MODELS[name](num_experts)
    loaded = written(portable, format, tmp_path)
    for batch in (1, 64):
        calls = list(samples(portable, batch))
        assert largest_difference(portable.signatures(), loaded, calls) < 1e-5
        for function, inputs in calls:
            together = loaded[function](**inputs)
            for row, (_, alone) in enumerate(one_by_one([(function, inputs)])):
                for key, x in loaded[function](**alone).items():
                    np.testing.assert_allclose(x[0], together[key][row], atol=1e-5)


# All gates but one of 64-bit integers and one that depends on the batch, which are refused.
MIXTURES = [(gate, "flat") for gate in sorted(set(GATES) - {"hash", "expert_choice"})]
MIXTURES += [("noisy_top_k", kind) for kind in ("groups", *RECURRENT)]


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("gate", "kind"), MIXTURES)
def test_mixtures(gate, kind, format, tmp_path):
    if kind in RECURRENT:
        mixture = MoELSTM(12, D, gate=GATES[gate], name="moe", **RECURRENT[kind])
    else:
        mixture = make_mixture((gate, kind))
    first = ProjectedLSTM(D, return_sequences=True)
    model = built(LanguageModel, residual_blocks([first, mixture]))
    remove_evaluation_capacity(model)
    portable = PortableLanguageModel(model, MAX_LENGTH)
    loaded = written(portable, format, tmp_path)
    assert largest_difference(portable.signatures(), loaded, portable.samples()) < 1e-5


@pytest.mark.slow
@pytest.mark.skipif(not has_node_packages(), reason="node or @tensorflow/tfjs-core is missing")
@pytest.mark.parametrize("num_experts", [None, 8, 100])
@pytest.mark.parametrize("name", MODELS)
def test_batches_in_node(name, num_experts, tmp_path):
    portable = MODELS[name](num_experts)
    written(portable, "tfjs", tmp_path)
    calls = [call for batch in (1, 64) for call in samples(portable, batch)]
    calls += list(one_by_one(calls[2:]))
    results = InNode(tmp_path, portable.signatures()).results(calls)
    for (name, inputs), outputs in zip(calls, results, strict=True):
        loaded = {name: lambda _=outputs, **inputs: _}
        assert largest_difference(portable.signatures(), loaded, [(name, inputs)]) < 1e-5


def refused_function():
    """A function with an operation that no format has."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")], autograph=False)
    def gamma(x):
        return {"y": tf.math.igamma(x, 2 * x)}

    return {"gamma": gamma}


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ("onnx", r"ONNX cannot hold the function gamma: it has no operation Igamma \(Igamma\)"),
        (
            "litert",
            r"LiteRT cannot hold the model: it has no operation Igamma of \(tensor<\?xf32>, ",
        ),
        (
            "tfjs",
            r"TensorFlow.js cannot hold the function gamma: it has no operation Igamma \(Igam",
        ),
    ],
)
def test_an_operation_that_a_format_does_not_have(format, message, tmp_path):
    require_packages(format)
    with pytest.raises(ConversionError, match=message):
        FORMATS[format][0](tmp_path, refused_function())


def test_a_type_that_a_format_does_not_have(tmp_path):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")], autograph=False)
    def double(x):
        return {"y": tf.cast(tf.cast(x, tf.float64) * 2.5, tf.float32)}

    message = r"TensorFlow.js cannot hold the function double: it has no float64 \(mul/y\)"
    with pytest.raises(ConversionError, match=message):
        FORMATS["tfjs"][0](tmp_path, {"double": double})


def test_a_file_that_differs(language):
    signatures, samples = language.signatures(), list(language.samples())
    same = {name: wrapped(signature) for name, signature in signatures.items()}
    assert largest_difference(signatures, same, samples) == 0

    def changed(**inputs):
        outputs = same["score"](**inputs)
        return {**outputs, "log_probability": outputs["log_probability"] * 1.01}

    with pytest.raises(ConversionError, match="score: the output log_probability differs from"):
        largest_difference(signatures, {**same, "score": changed}, samples)
    with pytest.raises(ConversionError, match=r"must have the shape \(3,\), got None"):
        largest_difference(signatures, {**same, "score": lambda **inputs: {}}, samples)


def wrapped(signature):
    def function(**inputs):
        outputs = signature.function(*map(tf.constant, inputs.values()))
        return {key: x.numpy() for key, x in outputs.items()}

    return function


def test_states_that_do_not_begin_with_zeros():
    with pytest.raises(ValueError, match="states before the first step must be zeros"):
        States(lambda num_rows, max_length: [tf.ones([num_rows, 2])])


@pytest.mark.parametrize(("format", "name"), [("litert", "LiteRT"), ("tfjs", r"TensorFlow\.js")])
def test_weights_beyond_two_gigabytes(format, name, language, tmp_path, monkeypatch):
    monkeypatch.setattr("tfmoe.serving.constant_weights.MAX_BYTES", 2_000)
    with pytest.raises(ValueError, match=rf"{name} .* must have at most 0\.0 GB, got 0\.0 GB"):
        FORMATS[format][0](tmp_path, traced(language.signatures()))
