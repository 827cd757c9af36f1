import numpy as np
import pytest

from tfmoe.analysis.gradient_traffic import (
    expected_rows,
    gradient_traffic,
    most_rows,
    time_of_candidates,
)
from tfmoe.analysis.variables import GraphBuild
from tfmoe.gating import NoisyTopK
from tfmoe.layers import AttentionLSTM, FeedForward, MoE, ProjectedLSTM
from tfmoe.models import LanguageModel, TranslationModel, residual_blocks
from tfmoe.models.word_predictor import Table
from tfmoe.ops.sampling import log_uniform_probability

P = np.log([2 / 1, 3 / 2, 4 / 3]) / np.log(4)  # of three words


def test_expected_rows_by_hand():
    np.testing.assert_allclose(log_uniform_probability(range(3), 3), P, rtol=1e-6)
    assert expected_rows(Table(4, 1), 3, 1) == pytest.approx(1)  # a word has one row
    np.testing.assert_allclose(expected_rows(Table(4, 2), 3, 1), sum(1 - (1 - P) ** 2))
    # The words of three devices together.
    np.testing.assert_allclose(expected_rows(Table(4, 2), 3, 3), sum(1 - (1 - P) ** 6))


def test_candidates_are_shared():
    time = time_of_candidates(P, 2)
    np.testing.assert_allclose(sum(1 - np.exp(-P * time)), 2)
    expected = sum(1 - (1 - P) ** 5 * np.exp(-P * time))
    np.testing.assert_allclose(expected_rows(Table(4, 5, 2), 3, 1), expected)
    assert expected_rows(Table(4, 0, 2), 3, 8) == pytest.approx(2)


def test_the_expectation_is_that_of_random_words():
    vocabulary_size, rng = 50, np.random.default_rng(0)
    probability = log_uniform_probability(range(vocabulary_size), vocabulary_size).numpy()
    words = rng.choice(vocabulary_size, [2000, 30], p=probability / probability.sum())
    mean = np.mean([len(set(row)) for row in words])
    np.testing.assert_allclose(mean, expected_rows(Table(1, 30), vocabulary_size, 1), rtol=0.01)


def test_most_rows():
    assert most_rows(Table(4, 5, 2), 100, 3) == 3 * 5 + 2
    assert most_rows(Table(4, 5, 2), 10, 3) == 10


def model_of(**options):
    moe = MoE(4, 5, gate=NoisyTopK(k=2), name="moe")
    return LanguageModel(11, 4, residual_blocks([FeedForward(6), moe]), **options)


def test_bytes_by_hand():
    model = model_of()
    replicated = sum(v.size for v in GraphBuild(model).variables() if v.sharding is None)
    counts = gradient_traffic(model, tokens=3, devices=2)
    # Of the softmax `[11, 4]` and its bias all rows have gradients, of the embedding only some.
    assert counts["dense"] == 2 * (replicated - 11 * 4) * 4 / 2
    assert counts["tables_at_most"] == (3 + 6) * (4 + 4 * 4) / 2
    rows = expected_rows(Table(4, 3), 11, 1) + expected_rows(Table(4, 3), 11, 2)
    assert counts["tables"] == np.ceil(rows * (4 + 4 * 4) / 2) < counts["tables_at_most"]
    assert counts["bytes_sent"] == counts["dense"] + counts["tables"]
    assert set(gradient_traffic(model, tokens=3).values()) == {0}  # one device


@pytest.mark.parametrize(
    ("options", "tables"),
    [
        ({}, [Table(4, 10)]),
        ({"num_sampled": 11}, [Table(4, 10)]),
        ({"num_sampled": 5}, [Table(4, 10), Table(4, 10, 5), Table(1, 10, 5)]),
        ({"num_sampled": 5, "softmax_bias": False}, [Table(4, 10), Table(4, 10, 5)]),
        ({"tie_embeddings": True}, []),
        ({"tie_embeddings": True, "num_sampled": 5}, [Table(4, 20, 5), Table(1, 10, 5)]),
    ],
)
def test_tables(options, tables):
    assert model_of(**options).tables(10) == tables


def test_tables_of_a_translation_model():
    encoder = residual_blocks([ProjectedLSTM(4, return_sequences=True)])
    model = TranslationModel(11, 4, encoder, residual_blocks([AttentionLSTM(4)]), num_sampled=5)
    assert model.tables(10) == [Table(4, 10), Table(4, 5, 5), Table(1, 5, 5)]
