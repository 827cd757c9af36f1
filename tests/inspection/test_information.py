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
    """A `RoutedText` of tokens, each with a list of experts, of equal gate values if none are
    given.
    """
    sizes = [len(each) for each in experts]
    lines = np.arange(1, len(tokens) + 1) if lines is None else np.array(lines)
    values = [1 / n for n in sizes for _ in range(n)] if gates is None else np.concatenate(gates)
    return RoutedText(
        num_experts,
        lines,
        np.arange(len(tokens)) - np.searchsorted(lines, lines),
        np.array(tokens, np.int32),
        np.repeat(np.arange(len(tokens)), sizes),
        np.array([expert for each in experts for expert in each], np.int32),
        np.array(values, np.float32),
    )


def test_the_expert_gives_the_token_away():
    """Two words of equal frequency, each with an expert of its own: 1 bit of 1 bit. Of the 4! / (2!
    2!) = 6 orders of the words 2 give 1 bit and 4 give none: mean 1/3, deviation √(2/9).
    """
    found = information_on_tokens(routed_text(2, [3, 3, 4, 4], [[0], [0], [1], [1]]), shuffles=4000)
    assert found.bits == pytest.approx(1)
    assert (found.share_of_experts, found.share_of_labels) == pytest.approx((1, 1))
    assert found.baseline_mean == pytest.approx(1 / 3, abs=0.04)
    assert found.baseline_deviation == pytest.approx(math.sqrt(2 / 9), abs=0.04)
    assert found.excess == pytest.approx(2 / 3, abs=0.04)


def test_the_expert_says_nothing():
    routed = routed_text(3, [3, 4, 3, 4], [[0, 2], [0, 2], [1, 2], [1, 2]])
    found = information_on_tokens(routed)
    assert found.bits == pytest.approx(0, abs=1e-12)
    # Experts have 1/4, 1/4 and 1/2 of the mass.
    assert (found.entropy_of_experts, found.entropy_of_labels) == pytest.approx((1.5, 1))


def test_experts_count_by_their_gate_values():
    """Word 3 goes to expert 0 with 3/4 and to 1 with 1/4, word 4 to 1: the pairs have 3/8, 1/8 and
    1/2, the experts 3/8 and 5/8, the words 1/2 each. Gate values need not sum to 1: these are half.
    """
    routed = routed_text(2, [3, 4], [[0, 1], [1]], gates=[[3 / 8, 1 / 8], [1 / 2]])
    expected = 3 / 8 * 1 + 1 / 8 * math.log2(2 / 5) + 1 / 2 * math.log2(8 / 5)
    assert information_on_tokens(routed).bits == pytest.approx(expected)


def test_labels_are_shuffled_over_lines():
    """Two lines of 50 tokens: shuffled or not, the labels of the lines are those of the experts.
    Tokens shuffled over all positions would give next to nothing.
    """
    experts = [[0]] * 50 + [[1]] * 50
    routed = routed_text(2, list(range(3, 103)), experts, lines=[1] * 50 + [3] * 50)
    found = information_on_labels(routed, ["news", "", "tales"])
    assert found.bits == pytest.approx(1)
    assert (found.baseline_mean, found.baseline_deviation) == pytest.approx((1, 0))


def test_lines_without_a_label_do_not_count():
    """Of the labelled lines 1 and 3, expert 1 has line 3 alone, expert 0 both: pairs 1/2 and 1/4,
    1/4 of two tokens, the second with both experts.
    """
    routed = routed_text(3, [3, 4, 5], [[0], [2], [0, 1]])
    names, shares, of_text = label_shares(routed, ["x", "", "y", "unused"])
    assert names == ["x", "y"]
    np.testing.assert_allclose(shares, [[2 / 3, 1 / 3], [0, 1], [0, 0]])
    np.testing.assert_allclose(of_text, [0.5, 0.5])
    found = information_on_labels(routed, ["x", "", "y"])
    expected = 1 / 2 * math.log2(4 / 3) + 1 / 4 * math.log2(2 / 3) + 1 / 4 * math.log2(2)
    assert found.bits == pytest.approx(expected)


def test_special_experts():
    """Expert 0 has a word of its own and 2 has another; 1 has as much of all: nothing to tell. Of
    0 and 2 the one with more tokens tells more.
    """
    routed = routed_text(
        4, [3, 3, 3, 4, 4, 5, 3, 4, 5], [[0]] * 2 + [[1]] + [[1], [1]] + [[2]] + [[1], [1], [1]]
    )
    assert special_experts(routed, 2) == [0, 2]
    assert 3 not in special_experts(routed, 4)  # it has no token


def test_mistakes():
    routed = routed_text(2, [3, 4], [[0], [1]])
    with pytest.raises(ValueError, match="shuffles must be at least 2"):
        information_on_tokens(routed, shuffles=1)
    with pytest.raises(ValueError, match="labels must be of every line: got 1 for line 2"):
        information_on_labels(routed, ["x"])
    with pytest.raises(ValueError, match="no line of the text has a label"):
        information_on_labels(routed, ["", ""])
    with pytest.raises(ValueError, match="no token has an expert"):
        information_on_tokens(routed_text(2, [3, 4], [[], []]))


def test_joint_counts_small_and_large():
    """Counted as a table or by sorting, the same comes out."""
    rows, columns = [1, 0, 1, 1], [2, 0, 2, 1]
    for num_columns in (3, 1 << 30):
        counts = joint_counts(rows, columns, num_columns)
        assert (counts.rows.tolist(), counts.columns.tolist()) == ([0, 1, 1], [0, 1, 2])
        assert counts.counts.tolist() == [1, 1, 2]
        weighted = joint_counts(rows, columns, num_columns, [1, 2, 3, 4])
        assert weighted.counts.tolist() == [2, 4, 4]
    assert [each.tolist() for each in counts.row(1)] == [[1, 2], [1, 2]]
    assert counts.row(5)[0].size == 0
    assert counts.matrix(2, 3).tolist() == [[1, 0, 0], [0, 1, 2]]


def test_memory_is_that_of_the_text():
    """65,536 experts and 793,471 words: a full table would have 5·10¹⁰ cells."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(3, 793_471, 20_000)
    experts = generator.integers(0, 65_536, (20_000, 2)).tolist()
    routed = routed_text(65_536, tokens, experts)
    tracemalloc.start()
    found = information_on_tokens(routed, shuffles=2)
    special_experts(routed)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6
    # So many words and experts tell everything about each other, shuffled or not.
    assert found.bits == pytest.approx(found.baseline_mean, rel=0.01)
