import numpy as np
import pytest

from tfmoe.inspection import RoutedText, co_selection, routing_consistency


def routed_text(num_experts, experts, gates=None):
    """The `RoutedText` of one line of tokens with lists of experts."""
    sizes, tokens = (
        [len(token_experts) for token_experts in experts],
        np.arange(3, 3 + len(experts)),
    )
    values = [1 / n for n in sizes for _ in range(n)] if gates is None else np.concatenate(gates)
    return RoutedText(
        num_experts,
        np.ones(len(tokens), np.int64),
        np.arange(len(tokens)),
        tokens,
        np.repeat(np.arange(len(tokens)), sizes),
        np.array([expert for token_experts in experts for expert in token_experts], np.int32),
        np.array(values, np.float32),
    )


def test_pairs_by_hand():
    """Expert 0 is in 6 pairs, experts 1 to 3 in 4 pairs each. Expected are 2 pairs of expert 0 with
    each other expert and 1 pair of any two others: 3·2 = 6, and 2 + 1 + 1 = 4. As products, 2·1 and
    1·1: expert 0 has the factor 2.
    """
    tokens = [[1, 0], [0, 1], [1, 0], [2, 0], [0, 2], [0, 3], [1, 3], [2, 3], [3, 2], [3]]
    result = co_selection(routed_text(5, tokens))
    assert result.in_pairs.tolist() == [6, 4, 4, 4, 0]
    assert list(zip(*(values.tolist() for values in result.pairs), strict=True)) == [
        (0, 1, 3),
        (0, 2, 2),
        (0, 3, 1),
        (1, 3, 1),
        (2, 3, 2),
    ]
    np.testing.assert_allclose(result.chance, [2, 1, 1, 1, 0], rtol=1e-6)
    nan = np.nan
    expected = [
        [nan, 1.5, 1, 0.5, nan],
        [1.5, nan, 0, 1, nan],
        [1, 0, nan, 2, nan],
        [0.5, 1, 2, nan, nan],
        [nan] * 5,
    ]
    np.testing.assert_allclose(result.lift([0, 1, 2, 3, 4]), expected, rtol=1e-6)
    np.testing.assert_allclose(result.lift([3, 0]), [[nan, 0.5], [0.5, nan]], rtol=1e-6)
    first, second = result.strongest(at_least=1, number=2)  # 1 and √½ standard deviations
    assert first[:3] == (2, 3, 2) and second[:3] == (0, 1, 3)
    assert second.expected == pytest.approx(2)
    assert result.strongest(at_least=3) == [second]


def test_pairs_of_an_expert_that_is_always_selected_have_a_lift_of_one():
    result = co_selection(routed_text(3, [[0, 1], [0, 1], [0, 2]]))
    np.testing.assert_allclose(result.lift([0, 1, 2])[0, 1:], 1, rtol=0.01)


def test_independent_uneven_experts_have_a_lift_of_one():
    """Sampled without replacement: a product of shares would underestimate frequent pairs."""
    generator = np.random.default_rng(0)
    shares = [0.4, 0.2, 0.1, 0.1, 0.1, 0.1]
    # The two smallest keys are a sample of two experts without replacement.
    keys = generator.exponential(size=(40_000, 6)) / shares
    result = co_selection(routed_text(6, np.argsort(keys, axis=1)[:, :2].tolist()))
    lift = result.lift(range(6))
    np.testing.assert_allclose(lift[~np.eye(6, dtype=bool)], 1, atol=0.12)


def test_tokens_with_varying_numbers_of_experts():
    """Three experts form three pairs; one expert forms none."""
    result = co_selection(routed_text(3, [[2, 0, 1], [], [1], [0, 2]]))
    np.testing.assert_array_equal(result.pairs.matrix(3, 3), [[0, 1, 2], [0, 0, 1], [0, 0, 0]])
    alone = co_selection(routed_text(3, [[0], [1]]))
    assert len(alone.pairs.counts) == 0 and alone.strongest() == []
    assert np.isnan(alone.lift([0, 1])).all()


@pytest.mark.parametrize("num_experts", [8, 5000])  # counted in a table, and by sorting
def test_independent_experts_have_a_lift_of_one(num_experts):
    generator = np.random.default_rng(0)
    experts = [generator.choice(8, 2, replace=False) for _ in range(20_000)]
    result = co_selection(routed_text(num_experts, experts))
    off_diagonal = ~np.eye(8, dtype=bool)
    np.testing.assert_allclose(result.lift(range(8))[off_diagonal], 1, atol=0.15)


def test_pairs_in_chunks(monkeypatch):
    """Counting in chunks of pairs gives the same result."""
    generator = np.random.default_rng(0)
    text = routed_text(6, [generator.choice(6, 3, replace=False) for _ in range(50)])
    whole = co_selection(text)
    monkeypatch.setattr("tfmoe.inspection.pairs.PAIRS_PER_CHUNK", 10)
    for one, other in zip(co_selection(text).pairs, whole.pairs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_consistency_by_hand():
    """Token 1 keeps its experts and 3/4 of its mass; token 2 keeps one of three experts, with gate
    values of 0.4 and 0.2; token 3 keeps nothing; token 4 has no experts and does not count.
    """
    one = routed_text(4, [[0, 1], [1, 2], [3], []], [[0.75, 0.25], [0.6, 0.4], [1.0], []])
    other = routed_text(4, [[0, 1], [2, 0], [0], []], [[0.5, 0.5], [0.2, 0.8], [1.0], []])
    result = routing_consistency(one, other)
    assert result.tokens == 3
    assert result.same_experts == pytest.approx(1 / 3)
    assert result.jaccard == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert result.kept_mass == pytest.approx((0.75 + 0.2 + 0) / 3)


def test_consistency_with_itself_and_by_chance():
    """Half of the tokens have each of two experts: after shuffling, half of the tokens agree."""
    text = routed_text(2, [[0], [1]] * 2000)
    result = routing_consistency(text, text)
    assert result[:3] == (1, 1, 1)
    assert result.chance == pytest.approx(0.5, abs=0.05)


def test_incomparable_routings():
    one = routed_text(2, [[0], [1]])
    with pytest.raises(ValueError, match="same number of experts to be compared, got 2 and 3"):
        routing_consistency(one, routed_text(3, [[0], [1]]))
    with pytest.raises(ValueError, match="the same text to be compared: tokens differ"):
        routing_consistency(one, one._replace(tokens=one.tokens + 1))
    with pytest.raises(ValueError, match="nothing to compare"):
        routing_consistency(routed_text(2, [[], []]), routed_text(2, [[], []]))
