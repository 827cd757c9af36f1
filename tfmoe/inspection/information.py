"""Mutual information between experts and tokens, or between experts and labels of lines.

Choose a random position of the text, then one of its experts with probability proportional to its
gate value: the mutual information is the number of bits that the expert reveals about the token. On
a finite text it is above 0 even if both are independent, and it grows with the number of experts
and words. Therefore a baseline is reported too: the mutual information on shuffled text.

Axes: T real tokens, A pairs of a token and an expert, E experts, L labels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tfmoe.inspection.joint_counts import joint_counts
from tfmoe.inspection.routing import RoutedText


class MutualInformation(NamedTuple):
    """Mutual information between experts and labels (or tokens), in bits.

    Attributes:
        bits: the mutual information.
        baseline_mean: mean over shuffles, in which expert and label are independent.
        baseline_deviation: sample standard deviation over shuffles.
        entropy_of_experts: entropy of the experts, an upper bound of `bits`.
        entropy_of_labels: entropy of the labels, another upper bound.
    """

    bits: float
    baseline_mean: float
    baseline_deviation: float
    entropy_of_experts: float
    entropy_of_labels: float

    @property
    def excess(self) -> float:
        """The bits above the baseline's mean."""
        return self.bits - self.baseline_mean

    @property
    def share_of_experts(self) -> float:
        """`bits` over the experts' entropy: 1 if the label determines the expert."""
        return self.bits / self.entropy_of_experts if self.entropy_of_experts else 0.0

    @property
    def share_of_labels(self) -> float:
        """`bits` over the labels' entropy: 1 if the expert determines the label."""
        return self.bits / self.entropy_of_labels if self.entropy_of_labels else 0.0


def information_on_tokens(
    routed: RoutedText, shuffles: int = 20, seed: int = 0
) -> MutualInformation:
    """Computes the mutual information between expert and token.

    The baseline shuffles tokens over the positions of the text.

    Args:
        routed: a `RoutedText`.
        shuffles: number of shuffles for the baseline, at least 2.
        seed: integer, for the shuffles.

    Raises:
        ValueError: if `shuffles` is below 2, or no token has an expert.
    """
    _, ids = np.unique(routed.tokens, return_inverse=True)
    return _information(routed, ids, lambda generator: generator.permutation(ids), shuffles, seed)


def information_on_labels(
    routed: RoutedText, labels: Sequence[str], shuffles: int = 20, seed: int = 0
) -> MutualInformation:
    """Computes the mutual information between expert and the label of a token's line.

    The baseline shuffles labels over lines, because all tokens of a line have the same label.

    Args:
        routed: a `RoutedText`.
        labels: `labels[n - 1]` is the label of line n. Lines with an empty label are ignored.
        shuffles: number of shuffles for the baseline, at least 2.
        seed: integer, for the shuffles.

    Raises:
        ValueError: if `shuffles` is below 2, no token has an expert, there are fewer labels than
            lines, or no line has a label.
    """
    routed, token_lines, line_labels, _ = _labelled(routed, labels)
    return _information(
        routed,
        line_labels[token_lines],
        lambda generator: generator.permutation(line_labels)[token_lines],
        shuffles,
        seed,
    )


def label_shares(
    routed: RoutedText, labels: Sequence[str]
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Computes the distribution of labels over each expert's tokens.

    Args:
        routed: a `RoutedText`.
        labels: `labels[n - 1]` is the label of line n. Lines with an empty label are ignored.

    Returns:
        The labels in alphabetical order; `[E, L]` float64, the share of each label in the gate
        values of each expert's tokens (rows sum to 1, or to 0 for an expert without tokens); `[L]`
        float64, the same for all experts together.

    Raises:
        ValueError: if there are fewer labels than lines, or no line has a label.
    """
    routed, token_lines, line_labels, names = _labelled(routed, labels)
    ids = line_labels[token_lines][routed.places]
    counts = joint_counts(routed.experts, ids, len(names), routed.shares)
    table = counts.matrix(routed.num_experts, len(names))
    total = table.sum(axis=1, keepdims=True)
    shares = np.divide(table, total, out=np.zeros_like(table), where=total > 0)
    return names, shares, table.sum(axis=0) / table.sum()


def special_experts(routed: RoutedText, number: int = 4) -> list[int]:
    """The experts that reveal most about the token.

    Args:
        routed: a `RoutedText`.
        number: maximum number of experts.

    Returns:
        Experts in descending order of their contribution `p(e) · KL(p(word | e) ‖ p(word))` to the
        mutual information between expert and token.
    """
    positive = routed.shares > 0  # gate values can underflow
    tokens, shares = routed.tokens[routed.places][positive], routed.shares[positive]
    experts = routed.experts[positive]
    counts = joint_counts(experts, tokens, int(routed.tokens.max(initial=0)) + 1, shares)
    expert_mass = np.bincount(experts, shares, routed.num_experts)
    token_mass = np.bincount(tokens, shares)
    joint, total = counts.counts, shares.sum()
    bits = joint * np.log2(joint * total / expert_mass[counts.rows] / token_mass[counts.columns])
    contributions = np.bincount(counts.rows, bits, routed.num_experts)
    best = np.argsort(-contributions, kind="stable")[:number]
    return [int(expert) for expert in best if expert_mass[expert] > 0]


def entropy(weights):
    """The entropy in bits of the distribution proportional to `weights`; 0 if all are 0."""
    weights = np.asarray(weights, np.float64)
    weights = weights[weights > 0]
    if not len(weights):
        return 0.0
    shares = weights / weights.sum()
    return max(float(-(shares * np.log2(shares)).sum()), 0.0)


def _information(routed, ids, shuffle, shuffles, seed):
    """`MutualInformation` between experts and ids.

    Args:
        routed: a `RoutedText`.
        ids: `[T]`, labels or tokens.
        shuffle: function of a NumPy generator that returns shuffled ids `[T]`.
        shuffles, seed: see `information_on_tokens`.
    """
    if shuffles < 2:
        raise ValueError(f"shuffles must be at least 2, for a standard deviation, got {shuffles}")
    if not len(routed.places):
        raise ValueError("no token has an expert: there is nothing to measure")
    shares, num_ids = routed.shares, int(ids.max()) + 1
    expert_entropy = entropy(np.bincount(routed.experts, shares))

    def bits_and_label_entropy(ids):
        pair_ids = ids[routed.places]
        label_entropy = entropy(np.bincount(pair_ids, shares))
        joint_entropy = entropy(joint_counts(routed.experts, pair_ids, num_ids, shares).counts)
        return max(expert_entropy + label_entropy - joint_entropy, 0.0), label_entropy

    bits, label_entropy = bits_and_label_entropy(ids)
    generator = np.random.default_rng(seed)
    baseline = [bits_and_label_entropy(shuffle(generator))[0] for _ in range(shuffles)]
    return MutualInformation(
        bits,
        float(np.mean(baseline)),
        float(np.std(baseline, ddof=1)),
        expert_entropy,
        label_entropy,
    )


def _labelled(routed, labels):
    """Removes lines without a label.

    Returns:
        `RoutedText` of the remaining lines; `[T]`, the index of each token's line among them; the
        label id of each of these lines; the names of the label ids.
    """
    last = int(routed.lines.max(initial=0))
    if len(labels) < last:
        raise ValueError(f"labels must include every line: got {len(labels)} labels, line {last}")
    line_numbers, token_lines = np.unique(routed.lines, return_inverse=True)
    line_labels = np.array([labels[number - 1] for number in line_numbers], dtype=str)
    if not line_labels.any():
        raise ValueError("no line of the text has a label")
    if not line_labels.all():
        has_label = line_labels != ""
        kept = has_label[token_lines]
        routed = _select_tokens(routed, kept)
        token_lines = (np.cumsum(has_label) - 1)[token_lines[kept]]
        line_labels = line_labels[has_label]
    names, label_ids = np.unique(line_labels, return_inverse=True)
    return routed, token_lines, label_ids, names.tolist()


def _select_tokens(routed, kept):
    """The `RoutedText` of the tokens where `kept`, `[T]` bool, holds."""
    pairs = kept[routed.places]
    return routed._replace(
        lines=routed.lines[kept],
        positions=routed.positions[kept],
        tokens=routed.tokens[kept],
        places=(np.cumsum(kept) - 1)[routed.places[pairs]],
        experts=routed.experts[pairs],
        gates=routed.gates[pairs],
    )
