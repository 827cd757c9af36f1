"""How much the choice of experts tells about a token, or about a label of its line.

The measure is mutual information: take a position of the text at random, then one of its experts by
its share of the gate values; how many bits does the expert tell about the token? On a finite text
that is above 0 even if the two have nothing to do with each other, the more so the more experts and
words there are. Therefore it comes with a baseline: the same figure for shuffled text.

Axes: T real tokens, A pairs of a token and an expert, E experts, L labels.
"""

from typing import NamedTuple

import numpy as np

from tfmoe.inspection.joint_counts import joint_counts


class MutualInformation(NamedTuple):
    """What the expert tells about a label, in bits.

    Attributes:
        bits: of mutual information.
        baseline_mean: the mean over shuffles, in which expert and label are independent.
        baseline_deviation: their sample standard deviation.
        entropy_of_experts: in bits; the information can be at most so much.
        entropy_of_labels: in bits; likewise.
    """

    bits: float
    baseline_mean: float
    baseline_deviation: float
    entropy_of_experts: float
    entropy_of_labels: float

    @property
    def excess(self):
        """The bits above the baseline's mean."""
        return self.bits - self.baseline_mean

    @property
    def share_of_experts(self):
        """`bits` as a share of the experts' entropy: how far the label decides the expert."""
        return self.bits / self.entropy_of_experts if self.entropy_of_experts else 0.0

    @property
    def share_of_labels(self):
        """`bits` as a share of the labels' entropy: how far the expert gives the label away."""
        return self.bits / self.entropy_of_labels if self.entropy_of_labels else 0.0


def information_on_tokens(routed, shuffles=20, seed=0):
    """Mutual information between expert and token; for the baseline, tokens are shuffled over the
    positions of the text.

    Args:
        routed: a `RoutedText`.
        shuffles: for the baseline, at least 2.
        seed: integer, for the shuffles.

    Returns:
        `MutualInformation`.

    Raises:
        ValueError: if there are less than 2 shuffles, or no token has an expert.
    """
    _, ids = np.unique(routed.tokens, return_inverse=True)
    return _information(routed, ids, lambda generator: generator.permutation(ids), shuffles, seed)


def information_on_labels(routed, labels, shuffles=20, seed=0):
    """Mutual information between expert and the label of a token's line; for the baseline, labels
    are shuffled over the lines, since the tokens of a line belong together.

    Args:
        routed: a `RoutedText`.
        labels: `labels[n - 1]` is the label of line n; lines with an empty one do not count.
        shuffles, seed: as for `information_on_tokens`.

    Returns:
        `MutualInformation`.

    Raises:
        ValueError: as `information_on_tokens`; if there are fewer labels than lines.
    """
    routed, line_of_token, label_of_line, _ = _labelled(routed, labels)
    return _information(
        routed,
        label_of_line[line_of_token],
        lambda generator: generator.permutation(label_of_line)[line_of_token],
        shuffles,
        seed,
    )


def label_shares(routed, labels):
    """What each expert's tokens are labelled.

    Args:
        routed, labels: as for `information_on_labels`.

    Returns:
        The labels in alphabetical order; `[E, L]` float64, of each expert the share of its tokens'
        gate values under each label (rows sum to 1; to 0 where an expert has no token); `[L]`, the
        same of all experts together.
    """
    routed, line_of_token, label_of_line, names = _labelled(routed, labels)
    ids = label_of_line[line_of_token][routed.places]
    table = joint_counts(routed.experts, ids, len(names), routed.shares)
    table = table.matrix(routed.num_experts, len(names))
    total = table.sum(axis=1, keepdims=True)
    shares = np.divide(table, total, out=np.zeros_like(table), where=total > 0)
    return names, shares, table.sum(axis=0) / table.sum()


def special_experts(routed, number=4):
    """The experts that tell most about the token.

    Args:
        routed: a `RoutedText`.
        number: of experts to return at most.

    Returns:
        List of experts, first the one with the largest part `p(e) · KL(p(word | e) ‖ p(word))` in
        the mutual information of expert and token.
    """
    given = routed.shares > 0  # a gate value can be too small for its type
    tokens, shares = routed.tokens[routed.places][given], routed.shares[given]
    experts = routed.experts[given]
    counts = joint_counts(experts, tokens, int(routed.tokens.max(initial=0)) + 1, shares)
    of_experts = np.bincount(experts, shares, routed.num_experts)
    of_tokens = np.bincount(tokens, shares)
    joint, total = counts.counts, shares.sum()
    bits = joint * np.log2(joint * total / of_experts[counts.rows] / of_tokens[counts.columns])
    parts = np.bincount(counts.rows, bits, routed.num_experts)
    best = np.argsort(-parts, kind="stable")[:number]
    return [int(expert) for expert in best if of_experts[expert] > 0]


def entropy(weights):
    """Entropy in bits of what occurs in proportion to the weights, an array; 0 of nothing."""
    weights = np.asarray(weights, np.float64)
    weights = weights[weights > 0]
    if not len(weights):
        return 0.0
    shares = weights / weights.sum()
    return max(float(-(shares * np.log2(shares)).sum()), 0.0)


def _information(routed, ids, shuffled, shuffles, seed):
    """`MutualInformation` of experts and ids `[T]`; `shuffled(generator)` gives others."""
    if shuffles < 2:
        raise ValueError(f"shuffles must be at least 2, for a standard deviation, got {shuffles}")
    if not len(routed.places):
        raise ValueError("no token has an expert: there is nothing to measure")
    shares, number = routed.shares, int(ids.max()) + 1
    of_experts = entropy(np.bincount(routed.experts, shares))

    def bits_and_entropy(ids):
        of_pairs = ids[routed.places]
        of_labels = entropy(np.bincount(of_pairs, shares))
        joint = entropy(joint_counts(routed.experts, of_pairs, number, shares).counts)
        return max(of_experts + of_labels - joint, 0.0), of_labels

    bits, of_labels = bits_and_entropy(ids)
    generator = np.random.default_rng(seed)
    baseline = [bits_and_entropy(shuffled(generator))[0] for _ in range(shuffles)]
    return MutualInformation(
        bits, float(np.mean(baseline)), float(np.std(baseline, ddof=1)), of_experts, of_labels
    )


def _labelled(routed, labels):
    """A text without the lines that have no label; `[T]` the line of each of its tokens, as an
    index into the labels of these lines; these, as ids; and the names of the ids.
    """
    last = int(routed.lines.max(initial=0))
    if len(labels) < last:
        raise ValueError(f"labels must be of every line: got {len(labels)} for line {last}")
    numbers, line_of_token = np.unique(routed.lines, return_inverse=True)
    of_lines = np.array([labels[number - 1] for number in numbers], dtype=str)
    if not of_lines.any():
        raise ValueError("no line of the text has a label")
    if not of_lines.all():
        labelled = of_lines != ""
        kept = labelled[line_of_token]
        routed = _only(routed, kept)
        line_of_token = (np.cumsum(labelled) - 1)[line_of_token[kept]]
        of_lines = of_lines[labelled]
    names, label_of_line = np.unique(of_lines, return_inverse=True)
    return routed, line_of_token, label_of_line, names.tolist()


def _only(routed, kept):
    """A `RoutedText` of some of its tokens, `kept [T]` bool."""
    pairs = kept[routed.places]
    return routed._replace(
        lines=routed.lines[kept],
        positions=routed.positions[kept],
        tokens=routed.tokens[kept],
        places=(np.cumsum(kept) - 1)[routed.places[pairs]],
        experts=routed.experts[pairs],
        gates=routed.gates[pairs],
    )
