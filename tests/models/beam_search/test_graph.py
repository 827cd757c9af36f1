"""Types, shapes and structures, in graphs with known and with unknown shapes."""

import numpy as np
import pytest
import tensorflow as tf
from models.beam_search.searches import END, RandomTranslator, assert_same, fixed, search

from tfmoe.models.beam_search import Hypotheses, tile


@pytest.mark.parametrize("num_best", [1, 5])
def test_shapes_types_and_order(num_best):
    translator = RandomTranslator(7, 4, 6, sources=5, seed=7)
    result = translator.search(5, num_best=num_best, keep_attention=True)
    shapes = [x.shape for x in result]
    assert shapes == [(7, num_best, 6), *[(7, num_best)] * 3, (7, num_best, 6, 5)]
    types = [x.dtype for x in result]
    assert types == [tf.int32, tf.int32, tf.float32, tf.float32, tf.float32]
    assert (np.diff(result.scores, axis=1) <= 0).all()
    assert (result.log_probabilities <= 0).numpy().all()
    assert translator.search(5).attention is None


def test_bfloat16_outputs_are_summed_in_float32():
    rows = np.log([[0.3, 0.5, 0.2], [0.8, 0.1, 0.1]])
    step = fixed(rows)

    def half(ids, t):
        values, _, t = step(ids, t)
        return tf.cast(values, tf.bfloat16), None, t

    result = search(
        half,
        tf.zeros([1], tf.int32),
        batch_size=1,
        start_id=0,
        end_id=END,
        vocabulary_size=3,
        beam_size=2,
        max_length=2,
        coverage_penalty=0,
    )
    values = tf.cast(tf.cast(rows, tf.bfloat16), tf.float32)
    assert result.log_probabilities[0, 0] == values[0, 1] + values[1, 0]


def test_nested_states_and_closed_over_constants():
    translator = RandomTranslator(4, 4, 4, seed=9)
    expected = translator.search(3)
    sentences = tile(tf.range(4), 3)
    np.testing.assert_array_equal(sentences, np.repeat(range(4), 3))

    def step(ids, states):
        (code,), history = states
        values, attention, new = translator.step(ids, {"code": code, "sentence": sentences})
        return values, attention, ([new["code"]], history)

    states = ([tf.fill([4], -1)], tf.zeros([4, 2, 3]))
    arguments = {"start_id": 1, "end_id": END, "vocabulary_size": 4, "max_length": 4}
    assert_same(
        expected,
        search(step, states, batch_size=4, beam_size=3, source_mask=translator.mask, **arguments),
    )


def test_tile_takes_structures():
    tiled = tile({"a": tf.constant([[1, 2], [3, 4]]), "b": (tf.constant([5.0, 6.0]),)}, 2)
    np.testing.assert_array_equal(tiled["a"], [[1, 2], [1, 2], [3, 4], [3, 4]])
    np.testing.assert_array_equal(tiled["b"][0], [5, 5, 6, 6])


class Exported(tf.Module):
    """A search as a signature with unknown batch size."""

    def __init__(self, translator):
        super().__init__()
        self.translator = translator

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.int32, name="sentences"),
            tf.TensorSpec([None, None], tf.bool, name="mask"),
            tf.TensorSpec([None], tf.int32, name="max_length"),
        ]
    )
    def search(self, sentences, mask, max_length):
        size = tf.shape(sentences)[0]
        result = search(
            self.translator.step,
            {"code": tf.fill([size], -1), "sentence": sentences},
            batch_size=size,
            start_id=1,
            end_id=END,
            vocabulary_size=4,
            beam_size=3,
            max_length=max_length,
            source_mask=mask,
            keep_attention=True,
        )
        return result._asdict()


def test_saved_model_with_unknown_batch_size(tmp_path):
    translator = RandomTranslator(5, 4, 5, seed=10)
    exported = Exported(translator)
    tf.saved_model.save(exported, tmp_path, signatures=exported.search)
    search = tf.saved_model.load(tmp_path).signatures["serving_default"]
    limits = np.array([5, 1, 4, 2, 3], np.int32)
    for chosen in ([0, 1, 2, 3, 4], [3], [4, 2]):
        inputs = [
            tf.constant(chosen, tf.int32),
            tf.constant(translator.mask[chosen]),
            tf.constant(limits[chosen]),
        ]
        expected = translator.search(3, chosen, max_length=limits[chosen], keep_attention=True)
        assert_same(expected, Hypotheses(**exported.search(*inputs)))
        loaded = search(sentences=inputs[0], mask=inputs[1], max_length=inputs[2])
        assert_same(expected, Hypotheses(**loaded))
    with pytest.raises(tf.errors.InvalidArgumentError, match="max_length must be at least 1"):
        exported.search(inputs[0], inputs[1], tf.constant([3, 0]))


def test_empty_batch():
    translator = RandomTranslator(1, 4, 3)
    result = translator.search(2, [])
    assert [x.shape for x in result[:4]] == [(0, 2, 3), (0, 2), (0, 2), (0, 2)]
    empty = tf.zeros([0], tf.int32)
    exported = Exported(translator)
    result = exported.search(empty, tf.zeros([0, 3], tf.bool), empty)
    assert result["scores"].shape == (0, 3)


def test_static_shapes_in_a_graph():
    translator = RandomTranslator(2, 4, 3)
    shapes = []

    @tf.function
    def search():
        result = translator.search(2)
        shapes.extend(x.shape.as_list() for x in result[:4])

    search()
    assert shapes == [[2, 2, 3], [2, 2], [2, 2], [2, 2]]
