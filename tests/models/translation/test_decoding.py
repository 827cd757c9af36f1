"""Decoding steps and translations."""

import numpy as np
import pytest
import tensorflow as tf
from models.translation.small_model import (
    GATES,
    REAL,
    SOURCE,
    TARGET,
    D,
    V,
    log_softmax,
    make_model,
    randomised,
    set_known_probabilities,
)

from tfmoe.models.beam_search import tile


@pytest.mark.parametrize("kind", ["multiplicative", "additive"])
@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize("gate", GATES)
def test_repeated_decoding_steps_equal_the_call(gate, groups, kind):
    model = randomised(gate=gate, groups=groups, kind=kind)
    expected = log_softmax(model.word_logits(model((SOURCE, TARGET))).numpy())
    expected_attention = model.attention(SOURCE, TARGET).numpy()
    step, states = model.decoding_step(*model.encode(SOURCE)), model.initial_states(3)
    for t in range(TARGET.shape[1]):
        log_p, attention, states = step(tf.constant(TARGET[:, t]), states)
        assert (log_p.shape, attention.shape) == ((3, V), (3, 4))
        assert (log_p.dtype, attention.dtype) == (tf.float32, tf.float32)
        on = REAL[:, t]
        np.testing.assert_allclose(log_p.numpy()[on], expected[on, t], rtol=0, atol=1e-4)
        np.testing.assert_allclose(
            attention.numpy()[on], expected_attention[on, t], rtol=0, atol=1e-5
        )
    assert len(states) == 3 and states[1] == ()  # a mixture has no state
    assert not expected_attention[np.broadcast_to((SOURCE == 0)[:, None], (3, 4, 4))].any()


def test_beam_search_scores_equal_the_calls():
    model = randomised()
    result = model.translate(SOURCE, beam_size=3, num_best=3, coverage_penalty=0.0)
    ids, lengths = result.ids.numpy(), result.lengths.numpy()
    limits = 2 * (SOURCE != 0).sum(axis=1) + 10
    for row in range(3):
        for rank in range(3):
            n = lengths[row, rank]
            target = np.array([[1, *ids[row, rank, :n]]], np.int32)
            ended = n < limits[row]
            outputs = np.append(target[0, 1:], [0] if ended else []).astype(int)
            features = model((SOURCE[row : row + 1], target[:, : len(outputs)]))
            log_p = log_softmax(model.word_logits(features).numpy())[0]
            expected = log_p[np.arange(len(outputs)), outputs].sum()
            got = result.log_probabilities.numpy()[row, rank]
            assert got == pytest.approx(expected, abs=1e-3)
            length_penalty = ((5 + len(outputs)) / 6) ** 0.2
            assert result.scores.numpy()[row, rank] == pytest.approx(got / length_penalty, rel=1e-5)


def test_beam_size_1_is_greedy():
    # It ends at a step where the end symbol is among the two best, at the likeliest such step.
    model = randomised()
    result = model.translate(
        SOURCE, beam_size=1, length_penalty=0.0, coverage_penalty=0.0, max_length=6
    )
    for row in range(3):
        written, total, ended = [1], 0.0, []
        while len(written) <= 6:
            features = model((SOURCE[row : row + 1], np.array([written], np.int32)))
            log_p = log_softmax(model.word_logits(features).numpy()[0, -1])
            second, best = np.argsort(log_p)[-2:].tolist()
            if 0 in (best, second):
                ended.append((total + log_p[0], written[1:]))
            if best == 0:
                break
            total += log_p[best]
            written.append(best)
        expected = max(ended)[1] if ended else written[1:]
        n = int(result.lengths[row, 0])
        assert result.ids.numpy()[row, 0, :n].tolist() == expected


def test_attention_of_a_translation_equals_the_calls():
    model = randomised()
    result = model.translate(SOURCE, beam_size=2, keep_attention=True)
    for row in range(3):
        n = int(result.lengths[row, 0])
        target = np.array([[1, *result.ids.numpy()[row, 0, :n]]], np.int32)
        expected = model.attention(SOURCE[row : row + 1], target).numpy()[0]
        ended = n < 2 * np.count_nonzero(SOURCE[row]) + 10
        steps = n + 1 if ended else n
        actual = result.attention.numpy()[row, 0]
        np.testing.assert_allclose(actual[:steps], expected[:steps], rtol=0, atol=1e-5)
        assert not actual[steps:].any()


def test_default_max_length_is_twice_the_source_length_plus_ten():
    model = make_model()
    model.build((None, None))
    set_known_probabilities(model)
    model.softmax.bias[0].assign(-np.inf)  # nothing ends
    result = model.translate(SOURCE, beam_size=2)
    np.testing.assert_array_equal(result.lengths.numpy()[:, 0], [16, 12, 18])


def test_shapes_of_tiled_memory_and_states():
    model = randomised()
    memory, mask = tile(model.encode(SOURCE), 2)
    assert (memory.shape, mask.shape) == ((6, 4, D), (6, 4))
    shapes = tf.nest.map_structure(lambda state: tuple(state.shape), model.initial_states(6))
    assert shapes == [[(6, D), (6, 8)], (), [(6, D), (6, D)]]
