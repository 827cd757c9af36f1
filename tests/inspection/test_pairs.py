import numpy as np
import pytest

from tfmoe.inspection import RoutedText, co_selection, routing_consistency


def routed_text(num_experts, experts, gates=None):
    """A `RoutedText` of one line, each token with a list of experts."""
    sizes, tokens = [len(each) for each in experts], np.arange(3, 3 + len(experts))
    values = [1 / n for n in sizes for _ in range(n)] if gates is None else np.concatenate(gates)
    return RoutedText(
        num_experts,
        np.ones(len(tokens), np.int64),
        np.arange(len(tokens)),
        tokens,
        np.repeat(np.arange(len(tokens)), sizes),
        np.array([expert for each in experts for expert in each], np.int32),
        np.array(values, np.float32),
    )


def test_pairs_by_hand():
    """Expert 0 is in 6 pairs, 1 to 3 in 4 each. By chance 0 meets each of the others twice, and two
    of them meet once: 3·2 = 6, and 2 + 1 + 1 = 4. That is 2·1 and 1·1: expert 0 has chance 2.
    """
    tokens = [[1, 0], [0, 1], [1, 0], [2, 0], [0, 2], [0, 3], [1, 3], [2, 3], [3, 2], [3]]
    found = co_selection(routed_text(5, tokens))
    assert found.in_pairs.tolist() == [6, 4, 4, 4, 0]
    assert list(zip(*(each.tolist() for each in found.pairs), strict=True)) == [
        (0, 1, 3),
        (0, 2, 2),
        (0, 3, 1),
        (1, 3, 1),
        (2, 3, 2),
    ]
    np.testing.assert_allclose(found.chance, [2, 1, 1, 1, 0], rtol=1e-6)
    nan = np.nan
    expected = [
        [nan, 1.5, 1, 0.5, nan],
        [1.5, nan, 0, 1, nan],
        [1, 0, nan, 2, nan],
        [0.5, 1, 2, nan, nan],
        [nan] * 5,
    ]
    np.testing.assert_allclose(found.lift([0, 1, 2, 3, 4]), expected, rtol=1e-6)
    np.testing.assert_allclose(found.lift([3, 0]), [[nan, 0.5], [0.5, nan]], rtol=1e-6)
    first, second = found.strongest(at_least=1, number=2)  # 1 and √½ standard deviations
    assert first[:3] == (2, 3, 2) and second[:3] == (0, 1, 3)
    assert second.expected == pytest.approx(2)
    assert found.strongest(at_least=3) == [second]


def test_an_expert_that_is_always_chosen_stands_out_in_no_pair():
    found = co_selection(routed_text(3, [[0, 1], [0, 1], [0, 2]]))
    np.testing.assert_allclose(found.lift([0, 1, 2])[0, 1:], 1, rtol=0.01)


def test_uneven_experts_chosen_independently_have_a_lift_of_one():
    """Drawn without replacement, where a product of shares would expect too few busy pairs."""
    generator = np.random.default_rng(0)
    shares = [0.4, 0.2, 0.1, 0.1, 0.1, 0.1]
    keys = generator.exponential(size=(40_000, 6)) / shares  # the two smallest are such a draw
    found = co_selection(routed_text(6, np.argsort(keys, axis=1)[:, :2].tolist()))
    lift = found.lift(range(6))
    np.testing.assert_allclose(lift[~np.eye(6, dtype=bool)], 1, atol=0.12)


def test_tokens_with_differing_numbers_of_experts():
    """Three experts are three pairs; one or none is no pair."""
    found = co_selection(routed_text(3, [[2, 0, 1], [], [1], [0, 2]]))
    np.testing.assert_array_equal(found.pairs.matrix(3, 3), [[0, 1, 2], [0, 0, 1], [0, 0, 0]])
    alone = co_selection(routed_text(3, [[0], [1]]))
    assert len(alone.pairs.counts) == 0 and alone.strongest() == []
    assert np.isnan(alone.lift([0, 1])).all()


@pytest.mark.parametrize("num_experts", [8, 5000])  # counted as a table, and by sorting
def test_independent_experts_have_a_lift_of_one(num_experts):
    generator = np.random.default_rng(0)
    experts = [generator.choice(8, 2, replace=False) for _ in range(20_000)]
    found = co_selection(routed_text(num_experts, experts))
    off_diagonal = ~np.eye(8, dtype=bool)
    np.testing.assert_allclose(found.lift(range(8))[off_diagonal], 1, atol=0.15)


def test_a_text_in_several_parts(monkeypatch):
    """Pairs are made some at a time."""
    generator = np.random.default_rng(0)
    text = routed_text(6, [generator.choice(6, 3, replace=False) for _ in range(50)])
    whole = co_selection(text)
    monkeypatch.setattr("tfmoe.inspection.pairs.PAIRS_AT_A_TIME", 10)
    for one, other in zip(co_selection(text).pairs, whole.pairs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_consistency_by_hand():
    """Token 1 keeps its experts, and 1/4 of its mass moves; of token 2 one of three experts stays,
    with 0.4 and 0.2; token 3 keeps nothing; token 4 has no experts at all and does not count.
    """
    one = routed_text(4, [[0, 1], [1, 2], [3], []], [[0.75, 0.25], [0.6, 0.4], [1.0], []])
    other = routed_text(4, [[0, 1], [2, 0], [0], []], [[0.5, 0.5], [0.2, 0.8], [1.0], []])
    found = routing_consistency(one, other)
    assert found.tokens == 3
    assert found.same_experts == pytest.approx(1 / 3)
    assert found.jaccard == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert found.kept_mass == pytest.approx((0.75 + 0.2 + 0) / 3)


def test_consistency_with_itself_and_by_chance():
    """Two tokens of four with each of two experts: shuffled, half of them agree."""
    text = routed_text(2, [[0], [1]] * 2000)
    found = routing_consistency(text, text)
    assert found[:3] == (1, 1, 1)
    assert found.chance == pytest.approx(0.5, abs=0.05)


def test_incomparable_routings():
    one = routed_text(2, [[0], [1]])
    with pytest.raises(ValueError, match="equally many experts: got 2 and 3"):
        routing_consistency(one, routed_text(3, [[0], [1]]))
    with pytest.raises(ValueError, match="the same text: tokens differ"):
        routing_consistency(one, one._replace(tokens=one.tokens + 1))
    with pytest.raises(ValueError, match="nothing to compare"):
        routing_consistency(routed_text(2, [[], []]), routed_text(2, [[], []]))
