import keras
import numpy as np
import pytest
import tensorflow as tf
from serving.small_language_models import (
    VOCABULARY,
    D,
    expected_score,
    generate,
    make_model,
    recurrent_mixtures,
    serving,
)

from tfmoe.data_pipelines.graph_tokenization import split_words
from tfmoe.gating import Batchwise, NoisyTopK
from tfmoe.layers import FeedForward, MoE, ProjectedLSTM
from tfmoe.serving.frozen_weights import FrozenWeights
from tfmoe.serving.language_model import ServingLanguageModel


@pytest.fixture(scope="module")
def model():
    lstm = ProjectedLSTM(D, return_sequences=True)
    first = MoE(4, 5, gate=NoisyTopK(k=2), name="first")
    second = MoE(4, 5, groups=2, gate=NoisyTopK(k=2), name="second")
    third = MoE(4, 5, gate=Batchwise(k=2), name="third")
    return make_model([lstm, first, FeedForward(5), second, third])


@pytest.fixture(scope="module")
def functions(model):
    return serving(model)


SENTENCES = ["a b c", "", "h g f e d c b a a", "x a", "e"]


def test_score(model, functions):
    outputs = functions["score"](sentences=tf.constant(SENTENCES))
    outputs = {name: value.numpy() for name, value in outputs.items()}
    assert outputs["token_count"].tolist() == [4, 1, 10, 3, 2]
    assert outputs["tokens"][3].tolist() == [b"<UNK>", b"a", b"</S>"] + [b""] * 7
    for row, sentence in enumerate(SENTENCES):
        expected = expected_score(model, sentence)
        values = outputs["token_log_probabilities"][row]
        np.testing.assert_allclose(values[: len(expected)], expected, atol=1e-5)
        assert not values[len(expected) :].any()
        np.testing.assert_allclose(outputs["log_probability"][row], sum(expected), atol=1e-5)


def test_probabilities_of_all_next_words_sum_to_one(functions):
    outputs = functions["next_token"](prefix=tf.constant(["a", "", "b b b b b"]))
    assert outputs["words"].shape == (3, 11)
    assert sorted(outputs["words"][0].numpy()) == sorted(
        word.encode() for word in VOCABULARY.decode(range(11))
    )
    np.testing.assert_allclose(tf.reduce_sum(outputs["probabilities"], axis=1), 1, atol=1e-5)


def test_next_token_agrees_with_score(functions):
    for prefix in ("", "a b c", "a b c d", "a b c d e f g"):
        outputs = functions["next_token"](prefix=tf.constant([prefix]))
        words, probabilities = (outputs[name][0].numpy() for name in ("words", "probabilities"))
        assert (np.diff(probabilities) <= 0).all()
        for word, probability in zip(words, probabilities, strict=True):
            if word in (b"</S>", b"<S>", b"<UNK>"):
                continue
            scored = functions["score"](sentences=tf.constant([f"{prefix} {word.decode()}"]))
            index = int(scored["token_count"][0]) - 2
            scored = scored["token_log_probabilities"][0, index]
            np.testing.assert_allclose(probability, np.exp(scored), atol=1e-5)


def padded_ids(sentences):
    ids = [VOCABULARY.encode(sentence.split()) for sentence in sentences]
    width = max(map(len, ids))
    return tf.constant([[*each, *[0] * (width - len(each))] for each in ids], tf.int32)


def test_functions_on_ids_give_the_answers_of_those_on_strings(functions):
    ids = padded_ids(SENTENCES)
    scored = functions["score_ids"](ids=ids)
    for name, expected in functions["score"](sentences=tf.constant(SENTENCES)).items():
        if name != "tokens":
            np.testing.assert_array_equal(scored[name], expected)
    wider = functions["score_ids"](ids=tf.pad(ids, [[0, 0], [0, 2]]))
    assert wider["token_log_probabilities"].shape == (5, 12)
    next_words = functions["next_token"](prefix=tf.constant(SENTENCES))
    next_ids = functions["next_token_ids"](ids=ids)
    words = next_words["words"].numpy().astype("U")
    assert [VOCABULARY.decode(row) for row in next_ids["ids"].numpy()] == words.tolist()
    np.testing.assert_array_equal(next_ids["probabilities"], next_words["probabilities"])
    controls = {"length": [9], "temperature": [1.5], "seed": [3, 1, 4, 1, 5]}
    generated = generate(functions, SENTENCES, **controls)
    dtypes = {"length": tf.int32, "temperature": tf.float32, "seed": tf.int32}
    tensors = {name: tf.constant(x, dtypes[name]) for name, x in controls.items()}
    new = functions["generate_ids"](ids=ids, **tensors)
    for name in ("word_count", "ended"):
        np.testing.assert_array_equal(new[name], generated[name])
    texts = [
        " ".join(VOCABULARY.decode(row[:count]))
        for row, count in zip(new["ids"].numpy(), new["word_count"].numpy(), strict=True)
    ]
    assert texts == generated["text"].numpy().astype("U").tolist()


@pytest.mark.parametrize("ids", [[[3, 11]], [[-1, 3]], [[3, 0, 4]], [[0, 3, 0]]])
def test_ids_out_of_range_or_after_padding(functions, ids):
    for name in ("score_ids", "next_token_ids"):
        with pytest.raises(tf.errors.InvalidArgumentError, match="ids must be from 1 to 10, and 0"):
            functions[name](ids=tf.constant(ids))


def test_no_sentences_of_ids(functions):
    for shape in ((0, 3), (0, 0), (2, 0)):
        outputs = functions["score_ids"](ids=tf.zeros(shape, tf.int32))
        assert outputs["token_log_probabilities"].shape == (shape[0], shape[1] + 1)
        assert outputs["token_count"].numpy().tolist() == [1] * shape[0]


def test_no_input_is_a_scalar(functions):
    """TensorFlow Serving joins the requests of a batch along the first axis of each input."""
    for function in functions.values():
        assert all(spec.shape.rank for spec in function.structured_input_signature[1].values())


def test_route(model, functions):
    sentence = "a x c"
    outputs = {
        name: value.numpy() for name, value in functions["route"](sentences=[sentence]).items()
    }
    assert set(outputs) == {"tokens"} | {
        f"{name}_{key}" for name in ("first", "second", "third") for key in ("experts", "gates")
    }
    assert outputs["tokens"].tolist() == [[b"<S>", b"a", b"<UNK>", b"c"]]
    tokens = tf.constant([[1, *VOCABULARY.encode(sentence.split())]])
    features = model.embedding(tokens)
    for block in model.blocks:
        inputs, features = features, block(features)
        if not isinstance(block.layer, MoE):
            continue
        gates = np.zeros((4, 4), np.float32)
        for token, expert, gate in zip(
            *block.layer.route(inputs).assignments.by_token(), strict=True
        ):
            gates[token, expert] = gate
        experts, values = (outputs[f"{block.layer.name}_{key}"][0] for key in ("experts", "gates"))
        assert (np.diff(values, axis=1) <= 0).all()
        exported_gates = np.zeros((4, 5), np.float32)
        np.put_along_axis(exported_gates, experts % 5, values, axis=1)  # -1, no expert, becomes 4
        np.testing.assert_allclose(exported_gates[:, :4], gates, atol=1e-6)
        assert (experts[values == 0] == -1).all()


def test_results_do_not_depend_on_the_batch(functions):
    batches = {name: functions[name](tf.constant(SENTENCES * 9)) for name in ("score", "route")}
    for row, sentence in enumerate(SENTENCES):
        for name, batch in batches.items():
            for key, alone in functions[name](tf.constant([sentence])).items():
                in_batch = batch[key][row]
                if alone.shape.rank > 1:
                    alone = alone[0]
                    in_batch = in_batch[tuple(slice(size) for size in alone.shape)]
                if alone.dtype == tf.float32:
                    np.testing.assert_allclose(alone, tf.reshape(in_batch, alone.shape), atol=1e-5)
                else:
                    assert (alone.numpy() == in_batch.numpy()).all()


@pytest.mark.parametrize("sentences", [[], [""], [" \t\n", b"\xff\xfe", "\0"], ["a " * 3000]])
def test_unusual_sentences(functions, sentences):
    sentences = tf.constant(sentences, tf.string)
    num_sentences = sentences.shape[0]
    outputs = functions["score"](sentences=sentences)
    assert outputs["log_probability"].shape == (num_sentences,)
    assert np.isfinite(outputs["log_probability"]).all()
    assert functions["next_token"](prefix=sentences)["words"].shape == (num_sentences, 11)
    assert functions["route"](sentences=sentences)["tokens"].shape[0] == num_sentences
    assert generate(functions, sentences, [3])["text"].shape == (num_sentences,)
    assert generate(functions, sentences, [0])["words"].shape == (num_sentences, 0)


def test_bfloat16_weights(model, functions):
    weights = FrozenWeights(model, "bfloat16")
    types = {w.path: v.dtype for w, v in zip(model.weights, weights.variables, strict=True)}
    half = {path.rpartition("/")[2] for path, dtype in types.items() if dtype == tf.bfloat16}
    assert half >= {"embeddings", "kernel", "kernel_0", "recurrent_kernel"}
    assert not half & {"gate_kernel", "log_thresholds", "bias", "noise_kernel"}
    outputs = serving(model, "bfloat16")["score"](sentences=tf.constant(SENTENCES))
    full = functions["score"](sentences=tf.constant(SENTENCES))
    difference = np.abs(outputs["log_probability"] - full["log_probability"]).max()
    assert 1e-5 < difference < 0.5
    before = [weight.numpy() for weight in model.weights]
    weights.round_model()
    try:
        for row, sentence in enumerate(SENTENCES):
            np.testing.assert_allclose(
                outputs["log_probability"][row], sum(expected_score(model, sentence)), atol=1e-5
            )
    finally:
        for weight, value in zip(model.weights, before, strict=True):
            weight.assign(value)


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        lstm = ProjectedLSTM(D, return_sequences=True)
        model = make_model([lstm, MoE(4, 5, gate=NoisyTopK(k=2), name="moe")])
    finally:
        keras.config.set_dtype_policy("float32")
    functions = serving(model, top=2)
    names = {"score", "next_token", "generate"}
    assert set(functions) == {"serving_default", "route", *names, *(f"{n}_ids" for n in names)}
    assert functions["next_token"](prefix=tf.constant(["a"]))["words"].shape == (1, 2)
    outputs = functions["score"](sentences=tf.constant(["a b"]))["log_probability"]
    np.testing.assert_allclose(outputs, [sum(expected_score(model, "a b"))], atol=0.05)
    assert generate(functions, ["a"], [3])["words"].shape == (1, 3)


def test_no_route_without_a_mixture():
    assert "route" not in serving(make_model([ProjectedLSTM(D, return_sequences=True)]))


def test_invalid_arguments(model):
    weights, table = FrozenWeights(model), VOCABULARY.lookup_table()
    with pytest.raises(
        ValueError, match="words must have 11 entries, the model's vocabulary size, got 2"
    ):
        ServingLanguageModel(model, weights, split_words, table, ["a", "b"], 4)
    words = VOCABULARY.decode(range(11))
    with pytest.raises(ValueError, match="top must be an integer of at least 1, got 0"):
        ServingLanguageModel(model, weights, split_words, table, words, 4, top=0)


def test_mixtures_with_one_name():
    model = make_model([MoE(4, 5, gate=NoisyTopK(k=2), name="moe") for _ in range(2)])
    outputs = serving(model)["route"](sentences=tf.constant(["a b"]))
    assert set(outputs) == {"tokens"} | {
        f"residual_moe_moe{suffix}_{key}" for suffix in ("", " (2)") for key in ("experts", "gates")
    }


@pytest.mark.slow
def test_recurrent_mixtures():
    model = make_model(recurrent_mixtures())
    functions = serving(model)
    test_score(model, functions)
    test_results_do_not_depend_on_the_batch(functions)
    outputs = functions["route"](sentences=["a b c"])
    for name in ("first", "second", "third"):
        assert outputs[f"{name}_experts"].shape == (1, 4, 2)
