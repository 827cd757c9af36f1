"""Which experts are chosen together for a token.

Axes: E experts, P different pairs of them that occur.
"""

from typing import NamedTuple

import numpy as np

from tfmoe.inspection.joint_counts import JointCounts, joint_counts

PAIRS_AT_A_TIME = 1 << 22


class Pair(NamedTuple):
    """Two experts, how many tokens have both, and how many would by chance."""

    first: int
    second: int
    count: int  # type: ignore[assignment]  # of a tuple, `count` is a method
    expected: float


class CoSelection(NamedTuple):
    """Pairs of experts that share tokens.

    What chance would give: as many pairs in all, each made of two different experts that are drawn
    in proportion to how often they occur in pairs. (A product of loads would expect too many: an
    expert is never chosen twice for a token.)

    Attributes:
        num_experts: E.
        pairs: `JointCounts` of the pairs, the smaller expert first.
        in_pairs: `[E]` int64, in how many pairs each expert is.
        chance: `[E]` float64: by chance experts i and j would be in `chance[i]·chance[j]` pairs,
            which makes each be in as many as it is (quasi-independence).
    """

    num_experts: int
    pairs: JointCounts
    in_pairs: np.ndarray
    chance: np.ndarray

    def expected(self, first, second):
        """How often two different experts would be chosen together by chance.

        Args:
            first, second: arrays of experts of one shape.
        """
        return self.chance[first] * self.chance[second]

    def lift(self, experts):
        """How many times as often as by chance experts are chosen together.

        Args:
            experts: `[N]` ids.

        Returns:
            `[N, N]` float64, symmetric; NaN on the diagonal and where chance expects nothing.
        """
        experts = np.asarray(experts)
        place = np.full(self.num_experts, -1)
        place[experts] = np.arange(len(experts))
        rows, columns = place[self.pairs.rows], place[self.pairs.columns]
        shown = (rows >= 0) & (columns >= 0)
        counts = np.zeros((len(experts), len(experts)))
        counts[rows[shown], columns[shown]] = self.pairs.counts[shown]
        expected = self.expected(experts[:, None], experts[None, :])
        np.fill_diagonal(expected, 0)
        return np.divide(
            counts + counts.T, expected, out=np.full_like(expected, np.nan), where=expected > 0
        )

    def strongest(self, number=8, at_least=10):
        """The pairs that stand out most: by the excess over chance, in its standard deviations
        (`(count - expected) / √expected`).

        Args:
            number: of pairs to return at most.
            at_least: how many tokens must have both.

        Returns:
            List of `Pair`.
        """
        first, second, counts = self.pairs
        expected = self.expected(first, second)
        excess = np.where(counts >= at_least, (counts - expected) / np.sqrt(expected), 0)
        best = np.argsort(-excess, kind="stable")[:number]
        return [
            Pair(int(first[i]), int(second[i]), int(counts[i]), float(expected[i]))
            for i in best
            if excess[i] > 0
        ]


def co_selection(routed):
    """Counts how often experts are chosen together for a token.

    Args:
        routed: a `RoutedText`.

    Returns:
        `CoSelection`; without pairs, where every token goes to one expert.
    """
    num_experts = routed.num_experts
    counted = JointCounts(*(np.zeros(0, np.int64),) * 3)
    for first, second in pairs_of_tokens(routed):
        new = joint_counts(first, second, num_experts)
        counted = merged(counted, new, num_experts)
    in_pairs = np.zeros(num_experts, np.int64)
    for experts in (counted.rows, counted.columns):
        np.add.at(in_pairs, experts, counted.counts)
    return CoSelection(num_experts, counted, in_pairs, chances(in_pairs))


def chances(in_pairs, rounds=1000):
    """Solves `q_i · Σ_{j≠i} q_j = in_pairs_i`.

    Args:
        in_pairs: `[E]`.
        rounds: of the iteration at most. An expert that is in all pairs has no finite solution, but
            the products come close.

    Returns:
        `[E]` float64.
    """
    wanted = np.asarray(in_pairs, np.float64)
    q = wanted / np.sqrt(max(wanted.sum(), 1.0))
    for _ in range(rounds):
        others = q.sum() - q
        better = np.sqrt(q * np.divide(wanted, others, out=np.zeros_like(q), where=others > 0))
        if np.allclose(better, q, rtol=1e-9, atol=0):
            break
        q = better
    return q


def pairs_of_tokens(routed):
    """Yields arrays of the smaller and of the larger expert of each pair in a token, not too many
    at a time.
    """
    sizes = np.bincount(routed.places, minlength=len(routed.tokens))
    begins = np.cumsum(sizes) - sizes
    for size in np.unique(sizes[sizes > 1]):
        first, second = np.triu_indices(size, 1)
        tokens = begins[sizes == size]
        step = max(1, PAIRS_AT_A_TIME // len(first))
        for begin in range(0, len(tokens), step):
            some = tokens[begin : begin + step, None] + np.arange(size)
            experts = np.sort(routed.experts[some], axis=1)
            yield experts[:, first].ravel(), experts[:, second].ravel()


def merged(one, other, num_columns):
    """The sum of two `JointCounts`."""
    keys = np.concatenate([each.rows * num_columns + each.columns for each in (one, other)])
    counts = np.concatenate([one.counts, other.counts])
    present, inverse = np.unique(keys, return_inverse=True)
    sums = np.zeros(len(present), np.int64)
    np.add.at(sums, inverse, counts)
    return JointCounts(present // num_columns, present % num_columns, sums)
