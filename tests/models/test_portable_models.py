"""Models on token ids in graphs for other runtimes: ONNX Runtime, LiteRT, TensorFlow.js."""

import numpy as np
import pytest
import tensorflow as tf

from tests.models import dense_models
from tests.portable_graphs import RUNTIMES, assert_equal, assert_portable, in_onnx_runtime

LENGTH = 5  # of caches
LANGUAGE_MODELS = {
    "lstm": dense_models.lstm_language_model,
    "transformer": dense_models.transformer_language_model,
}
TRANSLATION_MODELS = {
    "translation lstm": dense_models.lstm_translation_model,
    "translation transformer": dense_models.transformer_translation_model,
}


def ids(name, rank=2):
    return tf.TensorSpec([None] * rank, tf.int32, name=name)


def tokens(rows, steps, seed=0):
    return dense_models.sentences(rows, steps, seed)[0]


def next_words(rows):
    return np.random.default_rng(2).integers(1, dense_models.V, rows).astype("int32")


def logits(make):
    """Logits of all words of sentences."""
    model = dense_models.randomised(make())
    batches = [(tokens(1, 5),), (tokens(64, 7),)]
    return lambda tokens: {"logits": model.word_logits(model(tokens))}, [ids("tokens")], batches


def translation_logits(make):
    model = dense_models.randomised(make())
    batches = [(tokens(rows, 5), tokens(rows, 6, 1)) for rows in (1, 64)]

    def function(source, target):
        return {"logits": model.word_logits(model((source, target)))}

    return function, [ids("source"), ids("target")], batches


def language_model_step(make):
    """The logits of the next word, and the new states."""
    model = dense_models.randomised(make())
    structure = model.initial_states(1, LENGTH)

    def function(words, *states):
        features, states = model.step(words, tf.nest.pack_sequence_as(structure, states))
        return {"logits": model.word_logits(features), **named("new", states)}

    batches = []
    for rows in (1, 64):
        states = model.initial_states(rows, LENGTH)
        for step in range(2):
            _, states = model.step(tokens(rows, 5)[:, step], states)
        batches.append((next_words(rows), *flat(states)))
    return function, [ids("words", 1), *specs_of_states(structure)], batches


def decoder_step(make):
    """A step of beam search: log-probabilities, attention and the new states."""
    model = dense_models.randomised(make())
    structure = model.initial_states(1, LENGTH)

    def function(source, words, *states):
        step = model.decoding_step(*model.encode(source))
        values, attention, states = step(words, tf.nest.pack_sequence_as(structure, states))
        return {"log_probabilities": values, "attention": attention, **named("new", states)}

    batches = []
    for rows in (1, 64):
        step = model.decoding_step(*model.encode(tokens(rows, 4)))
        states = step(next_words(rows), model.initial_states(rows, LENGTH))[2]
        batches.append((tokens(rows, 4), next_words(rows), *flat(states)))
    return function, [ids("source"), ids("words", 1), *specs_of_states(structure)], batches


def flat(states):
    return [state.numpy() for state in tf.nest.flatten(states)]


def named(name, states):
    return {f"{name}_{i}": state for i, state in enumerate(tf.nest.flatten(states))}


def specs_of_states(structure):
    """The specs of states. All axes that are not known from the model are unknown."""

    def spec(name, state):
        shape = [None, *state.shape[1:]]
        if state.shape.rank == 4:
            shape[2] = None
        return tf.TensorSpec(shape, state.dtype, name=name)

    return [spec(name, state) for name, state in named("state", structure).items()]


CASES = {
    **{f"{name} logits": (logits, make) for name, make in LANGUAGE_MODELS.items()},
    **{f"{name} step": (language_model_step, make) for name, make in LANGUAGE_MODELS.items()},
    **{f"{name} logits": (translation_logits, make) for name, make in TRANSLATION_MODELS.items()},
    **{f"{name} step": (decoder_step, make) for name, make in TRANSLATION_MODELS.items()},
}


QUICK = {"transformer step", "translation lstm step", "translation transformer logits"}


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in CASES]
)
def case(request):
    make_case, make = CASES[request.param]
    return make_case(make)


def test_operations_and_results(case):
    assert_portable(*case)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_results_in_other_runtimes(case, runtime):
    function, specs, batches = case
    assert_equal(function, batches, RUNTIMES[runtime](function, specs, batches))


@pytest.mark.slow
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_answers_of_a_batch_equal_those_one_by_one(name):
    function, specs, (_, (batch,)) = logits(LANGUAGE_MODELS[name])
    lengths = np.count_nonzero(batch, axis=1)
    rows = [(row[None, :length],) for row, length in zip(batch, lengths, strict=True)]
    together, *alone = in_onnx_runtime(function, specs, [(batch,), *rows])
    for row, length, result in zip(together["logits"], lengths, alone, strict=True):
        np.testing.assert_allclose(row[:length], result["logits"][0], atol=1e-5)
