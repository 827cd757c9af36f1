import numpy as np
import pytest
import tensorflow as tf
from models.beam_search.searches import END, RandomTranslator, fixed, search


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beam_size": 0}, "beam_size must be an integer of at least 1, got 0"),
        ({"beam_size": 2.0}, "beam_size must be an integer of at least 1"),
        ({"vocabulary_size": 0}, "vocabulary_size must be an integer of at least 1"),
        ({"vocabulary_size": 5}, "vocabulary_size is 5, but step returned log-probabilities of"),
        ({"num_best": 0}, "num_best must be an integer of at least 1"),
        ({"num_best": 3}, "num_best must be at most beam_size 2, got 3"),
        ({"start_id": 4}, r"start_id must be .* 0 to 3 \(vocabulary_size - 1\), got 4"),
        ({"end_id": -1}, r"end_id must be .* 0 to 3 \(vocabulary_size - 1\), got -1"),
        ({"end_id": 1.0}, "end_id must be an integer"),
        ({"length_penalty": -0.1}, "length_penalty must be a finite number of at least 0"),
        ({"coverage_penalty": np.nan}, "coverage_penalty must be a finite number of at least 0"),
        ({"pruning": 0}, "pruning must be a finite number above 0, got 0"),
        ({"pruning": np.inf}, "pruning must be a finite number above 0, got inf"),
        ({"max_length": 0}, "max_length must be at least 1, got 0"),
        ({"max_length": [3, 0]}, "max_length must be at least 1"),
        ({"max_length": 2.5}, "max_length must be an integer or a vector of them"),
        ({"max_length": [[3, 3]]}, "max_length must be an integer or a vector of them"),
        ({"max_length": [3, 3, 3]}, "max_length must have a leading axis of batch_size 2"),
        ({"batch_size": -1}, "batch_size must be an integer of at least 0"),
        ({"batch_size": 3}, "states must have a leading axis of batch_size 3"),
        ({"source_mask": None}, "source_mask must be given with coverage_penalty above 0"),
        (
            {"source_mask": None, "coverage_penalty": 0, "keep_attention": True},
            "source_mask must be given with keep_attention",
        ),
        ({"source_mask": [[True] * 3]}, "source_mask must have a leading axis of batch_size 2"),
        ({"source_mask": [True, True]}, "source_mask must have .* 2 axes"),
        ({"source_mask": [[True]] * 2}, "the width of source_mask is 1, but step returned"),
    ],
)
def test_errors_name_the_argument(arguments, message):
    translator = RandomTranslator(2, 4, 3)
    with pytest.raises(ValueError, match=message):
        translator.search(**{"beam_size": 2, **arguments})


def test_coverage_penalty_needs_attention():
    with pytest.raises(ValueError, match="no attention: coverage_penalty must be 0"):
        search(
            fixed(np.log([[0.5, 0.5]])),
            tf.zeros([1], tf.int32),
            batch_size=1,
            start_id=0,
            end_id=END,
            vocabulary_size=2,
            beam_size=1,
            max_length=1,
            source_mask=[[True]],
        )


def test_states_must_keep_their_shape():
    def step(ids, states):
        return tf.zeros([2, 2]), None, tf.concat([states, states], axis=1)

    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        search(
            step,
            tf.zeros([1, 3]),
            batch_size=1,
            start_id=0,
            end_id=END,
            vocabulary_size=2,
            beam_size=2,
            max_length=2,
            coverage_penalty=0,
        )
