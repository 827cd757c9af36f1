"""Co-selection: pairs of experts that are selected for the same token.

Axes: E experts, P distinct pairs that occur.
"""

from typing import NamedTuple

import numpy as np

from tfmoe.inspection.joint_counts import JointCounts, joint_counts
from tfmoe.inspection.routing import RoutedText

PAIRS_PER_CHUNK = 1 << 22


class Pair(NamedTuple):
    """Two experts that are selected together.

    Attributes:
        first: the smaller expert.
        second: the larger expert.
        count: number of tokens that have both.
        expected: number of tokens expected by chance, see `CoSelection`.
    """

    first: int
    second: int
    count: int  # type: ignore[assignment]  # of a tuple, `count` is a method
    expected: float


class CoSelection(NamedTuple):
    """Pairs of experts that share tokens.

    The chance model draws the same total number of pairs of two different experts, and every
    expert occurs in as many pairs as in the data (quasi-independence). A product of loads would
    expect too many pairs, because an expert is never selected twice for a token.

    Attributes:
        num_experts: E.
        pairs: `JointCounts` of the pairs, the smaller expert as the row.
        in_pairs: `[E]` int64, number of pairs that contain each expert.
        chance: `[E]` float64. Experts i and j are expected in `chance[i]·chance[j]` pairs.
    """

    num_experts: int
    pairs: JointCounts
    in_pairs: np.ndarray
    chance: np.ndarray

    def expected(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """The number of tokens that two different experts share by chance.

        Args:
            first: array of experts.
            second: array of experts, of the same shape.

        Returns:
            float64 array of the same shape.
        """
        return self.chance[first] * self.chance[second]

    def lift(self, experts: np.ndarray) -> np.ndarray:
        """The ratio of observed to expected pairs.

        Args:
            experts: `[N]` ids.

        Returns:
            `[N, N]` float64, symmetric; NaN on the diagonal and if no pairs are expected.
        """
        experts = np.asarray(experts)
        index = np.full(self.num_experts, -1)
        index[experts] = np.arange(len(experts))
        rows, columns = index[self.pairs.rows], index[self.pairs.columns]
        included = (rows >= 0) & (columns >= 0)
        counts = np.zeros((len(experts), len(experts)))
        counts[rows[included], columns[included]] = self.pairs.counts[included]
        expected = self.expected(experts[:, None], experts[None, :])
        np.fill_diagonal(expected, 0)
        return np.divide(
            counts + counts.T, expected, out=np.full_like(expected, np.nan), where=expected > 0
        )

    def strongest(self, number: int = 8, at_least: int = 10) -> list[Pair]:
        """The pairs with the largest excess over chance, in standard deviations.

        The excess is `(count - expected) / √expected`.

        Args:
            number: maximum number of pairs.
            at_least: minimum number of tokens that have both experts.

        Returns:
            Pairs with a positive excess, largest first.
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


def co_selection(routed: RoutedText) -> CoSelection:
    """Counts the pairs of experts that are selected for the same token.

    Args:
        routed: a `RoutedText`.

    Returns:
        `CoSelection`, without pairs if every token has only one expert.
    """
    num_experts = routed.num_experts
    pairs = JointCounts(*(np.zeros(0, np.int64),) * 3)
    for first, second in token_pairs(routed):
        pairs = add_counts(pairs, joint_counts(first, second, num_experts), num_experts)
    in_pairs = np.zeros(num_experts, np.int64)
    for experts in (pairs.rows, pairs.columns):
        np.add.at(in_pairs, experts, pairs.counts)
    return CoSelection(num_experts, pairs, in_pairs, chance_factors(in_pairs))


def chance_factors(in_pairs, max_iterations=1000):
    """Solves `q_i · Σ_{j≠i} q_j = in_pairs_i` by iteration.

    Args:
        in_pairs: `[E]`.
        max_iterations: maximum number of iterations. If one expert is in all pairs, there is no
            finite solution, but the products converge.

    Returns:
        `[E]` float64.
    """
    targets = np.asarray(in_pairs, np.float64)
    q = targets / np.sqrt(max(targets.sum(), 1.0))
    for _ in range(max_iterations):
        others = q.sum() - q
        update = np.sqrt(q * np.divide(targets, others, out=np.zeros_like(q), where=others > 0))
        if np.allclose(update, q, rtol=1e-9, atol=0):
            break
        q = update
    return q


def token_pairs(routed):
    """Yields all pairs of experts of a token in chunks: arrays of the smaller and of the larger
    expert.
    """
    num_experts = np.bincount(routed.places, minlength=len(routed.tokens))
    starts = np.cumsum(num_experts) - num_experts
    for size in np.unique(num_experts[num_experts > 1]):
        first, second = np.triu_indices(size, 1)
        token_starts = starts[num_experts == size]
        step = max(1, PAIRS_PER_CHUNK // len(first))
        for start in range(0, len(token_starts), step):
            indices = token_starts[start : start + step, None] + np.arange(size)
            experts = np.sort(routed.experts[indices], axis=1)
            yield experts[:, first].ravel(), experts[:, second].ravel()


def add_counts(one, other, num_columns):
    """The sum of two `JointCounts`."""
    keys = np.concatenate([pairs.rows * num_columns + pairs.columns for pairs in (one, other)])
    counts = np.concatenate([one.counts, other.counts])
    present, inverse = np.unique(keys, return_inverse=True)
    sums = np.zeros(len(present), np.int64)
    np.add.at(sums, inverse, counts)
    return JointCounts(present // num_columns, present % num_columns, sums)
