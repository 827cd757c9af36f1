"""The agreement of two routings of the same text, for example of two checkpoints of a run."""

from typing import NamedTuple

import numpy as np

from tfmoe.inspection.routing import RoutedText


class Consistency(NamedTuple):
    """The agreement of two routings, over the tokens that have an expert in at least one of them.

    Attributes:
        same_experts: share of tokens with the same set of experts.
        jaccard: mean Jaccard index of the tokens' two sets of experts, |both| / |either|.
        kept_mass: mean over tokens of `Σ_i min(G(x)_i, G'(x)_i)`, with gate values normalised to
            sum to 1 for each token. It is 1 for equal routings.
        chance: mean `jaccard` after shuffling the second routing's tokens.
        tokens: number of tokens.
    """

    same_experts: float
    jaccard: float
    kept_mass: float
    chance: float
    tokens: int


def routing_consistency(one: RoutedText, other: RoutedText, seed: int = 0) -> Consistency:
    """Compares two routings of the same text.

    Args:
        one: a routing of the text.
        other: another routing of the text, by a mixture with the same number of experts.
        seed: integer, for the shuffle.

    Raises:
        ValueError: if the texts or the expert counts differ, or no token has an expert.
    """
    if one.num_experts != other.num_experts:
        raise ValueError(
            "routings must have the same number of experts to be compared, got "
            f"{one.num_experts} and {other.num_experts}"
        )
    for name in ("lines", "positions", "tokens"):
        if not np.array_equal(getattr(one, name), getattr(other, name)):
            raise ValueError(f"routings must be of the same text to be compared: {name} differ")
    either, both, mass = overlap(one, other, np.arange(len(one.tokens)))
    routed = either > 0
    if not routed.any():
        raise ValueError("no token has an expert: there is nothing to compare")
    either, both, mass = either[routed], both[routed], mass[routed]
    order = np.random.default_rng(seed).permutation(len(one.tokens))
    either_by_chance, both_by_chance, _ = overlap(one, other, order)
    routed_by_chance = either_by_chance > 0
    jaccard_by_chance = both_by_chance[routed_by_chance] / either_by_chance[routed_by_chance]
    return Consistency(
        float((either == both).mean()),
        float((both / either).mean()),
        float(mass.mean()),
        float(jaccard_by_chance.mean()),
        int(routed.sum()),
    )


def overlap(one, other, order):
    """For each token: experts in either routing, experts in both, and the common gate mass.

    Args:
        one, other: `RoutedText`s of the same text.
        order: `[T]`, the token of `one` with which each token of `other` is compared.

    Returns:
        Three arrays `[T]`.
    """
    num_tokens = len(one.tokens)
    keys = one.places * one.num_experts + one.experts
    other_tokens = order[other.places]
    other_keys = other_tokens * other.num_experts + other.experts
    _, common, other_common = np.intersect1d(
        keys, other_keys, assume_unique=True, return_indices=True
    )
    both = np.bincount(one.places[common], minlength=num_tokens)
    common_shares = np.minimum(one.shares[common], other.shares[other_common])
    either = (
        np.bincount(one.places, minlength=num_tokens)
        + np.bincount(other_tokens, minlength=num_tokens)
        - both
    )
    return either, both, np.bincount(one.places[common], common_shares, num_tokens)
