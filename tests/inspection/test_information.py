import math
import tracemalloc

import numpy as np
import pytest

from tfmoe.inspection import (
    RoutedText,
    information_on_labels,
    information_on_tokens,
    joint_counts,
    label_shares,
    special_experts,
)


def routed_text(num_experts, tokens, experts, lines=None, gates=None):
    """The `RoutedText` of tokens with lists of experts, by default with equal gate values."""
    sizes = [len(token_experts) for token_experts in experts]
    lines = np.arange(1, len(tokens) + 1) if lines is None else np.array(lines)
    values = [1 / n for n in sizes for _ in range(n)] if gates is None else np.concatenate(gates)
    return RoutedText(
        num_experts,
        lines,
        np.arange(len(tokens)) - np.searchsorted(lines, lines),
        np.array(tokens, np.int32),
        np.repeat(np.arange(len(tokens)), sizes),
        np.array([expert for token_experts in experts for expert in token_experts], np.int32),
        np.array(values, np.float32),
    )


def test_expert_determines_the_token():
    """Two words of equal frequency with different experts: 1 bit of 1 bit. Of the 4! / (2! 2!) = 6
    orders of the words, 2 give 1 bit and 4 give 0 bits: mean 1/3, deviation √(2/9).
    """
    information = information_on_tokens(
        routed_text(2, [3, 3, 4, 4], [[0], [0], [1], [1]]), shuffles=4000
    )
    assert information.bits == pytest.approx(1)
    assert (information.share_of_experts, information.share_of_labels) == pytest.approx((1, 1))
    assert information.baseline_mean == pytest.approx(1 / 3, abs=0.04)
    assert information.baseline_deviation == pytest.approx(math.sqrt(2 / 9), abs=0.04)
    assert information.excess == pytest.approx(2 / 3, abs=0.04)


def test_expert_is_independent_of_the_token():
    routed = routed_text(3, [3, 4, 3, 4], [[0, 2], [0, 2], [1, 2], [1, 2]])
    information = information_on_tokens(routed)
    assert information.bits == pytest.approx(0, abs=1e-12)
    # The experts' shares of the gate values are 1/4, 1/4 and 1/2.
    assert (information.entropy_of_experts, information.entropy_of_labels) == pytest.approx(
        (1.5, 1)
    )


def test_experts_are_weighted_by_gate_values():
    """Word 3 goes to expert 0 with 3/4 and to expert 1 with 1/4, word 4 to expert 1: the pairs have
    probabilities 3/8, 1/8 and 1/2, the experts 3/8 and 5/8, the words 1/2 each. Gate values need
    not sum to 1: here they sum to 1/2.
    """
    routed = routed_text(2, [3, 4], [[0, 1], [1]], gates=[[3 / 8, 1 / 8], [1 / 2]])
    expected = 3 / 8 * 1 + 1 / 8 * math.log2(2 / 5) + 1 / 2 * math.log2(8 / 5)
    assert information_on_tokens(routed).bits == pytest.approx(expected)


def test_labels_are_shuffled_over_lines():
    """Two lines of 50 tokens: also after shuffling, the label determines the expert. Shuffling
    labels over all tokens would give almost 0 bits.
    """
    experts = [[0]] * 50 + [[1]] * 50
    routed = routed_text(2, list(range(3, 103)), experts, lines=[1] * 50 + [3] * 50)
    information = information_on_labels(routed, ["news", "", "tales"])
    assert information.bits == pytest.approx(1)
    assert (information.baseline_mean, information.baseline_deviation) == pytest.approx((1, 0))


def test_lines_without_a_label_are_ignored():
    """Lines 1 and 3 have labels and one token each. Line 1 has expert 0, line 3 has experts 0 and
    1: the pairs have probabilities 1/2, 1/4 and 1/4.
    """
    routed = routed_text(3, [3, 4, 5], [[0], [2], [0, 1]])
    names, shares, text_shares = label_shares(routed, ["x", "", "y", "unused"])
    assert names == ["x", "y"]
    np.testing.assert_allclose(shares, [[2 / 3, 1 / 3], [0, 1], [0, 0]])
    np.testing.assert_allclose(text_shares, [0.5, 0.5])
    information = information_on_labels(routed, ["x", "", "y"])
    expected = 1 / 2 * math.log2(4 / 3) + 1 / 4 * math.log2(2 / 3) + 1 / 4 * math.log2(2)
    assert information.bits == pytest.approx(expected)


def test_special_experts():
    """Experts 0 and 2 have one word each; expert 1 has all words in equal numbers and contributes
    no information. Of experts 0 and 2, the one with more tokens contributes more.
    """
    routed = routed_text(
        4, [3, 3, 3, 4, 4, 5, 3, 4, 5], [[0]] * 2 + [[1]] + [[1], [1]] + [[2]] + [[1], [1], [1]]
    )
    assert special_experts(routed, 2) == [0, 2]
    assert 3 not in special_experts(routed, 4)  # expert 3 has no token


def test_invalid_arguments():
    routed = routed_text(2, [3, 4], [[0], [1]])
    with pytest.raises(ValueError, match="shuffles must be at least 2"):
        information_on_tokens(routed, shuffles=1)
    with pytest.raises(ValueError, match="labels must include every line: got 1 labels, line 2"):
        information_on_labels(routed, ["x"])
    with pytest.raises(ValueError, match="no line of the text has a label"):
        information_on_labels(routed, ["", ""])
    with pytest.raises(ValueError, match="no token has an expert"):
        information_on_tokens(routed_text(2, [3, 4], [[], []]))


def test_joint_counts_small_and_large():
    """Counting in a table and by sorting give the same result."""
    rows, columns = [1, 0, 1, 1], [2, 0, 2, 1]
    for num_columns in (3, 1 << 30):
        counts = joint_counts(rows, columns, num_columns)
        assert (counts.rows.tolist(), counts.columns.tolist()) == ([0, 1, 1], [0, 1, 2])
        assert counts.counts.tolist() == [1, 1, 2]
        weighted = joint_counts(rows, columns, num_columns, [1, 2, 3, 4])
        assert weighted.counts.tolist() == [2, 4, 4]
    assert [values.tolist() for values in counts.row(1)] == [[1, 2], [1, 2]]
    assert counts.row(5)[0].size == 0
    assert counts.matrix(2, 3).tolist() == [[1, 0, 0], [0, 1, 2]]


def test_memory_is_proportional_to_the_text():
    """65,536 experts and 793,471 words: a full table would have 5·10¹⁰ cells."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(3, 793_471, 20_000)
    experts = generator.integers(0, 65_536, (20_000, 2)).tolist()
    routed = routed_text(65_536, tokens, experts)
    tracemalloc.start()
    information = information_on_tokens(routed, shuffles=2)
    special_experts(routed)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6
    # With this many words and experts, both determine each other, even after shuffling.
    assert information.bits == pytest.approx(information.baseline_mean, rel=0.01)
