"""How far two routings of one text agree: of two checkpoints of a run, for example."""

from typing import NamedTuple

import numpy as np


class Consistency(NamedTuple):
    """How far two routings agree, over the tokens that have an expert in one of them.

    Attributes:
        same_experts: share of tokens that go to the same set of experts.
        jaccard: mean over the tokens of |both| / |either| of the two sets.
        kept_mass: mean over the tokens of `Σ_i min(G(x)_i, G'(x)_i)`, gate values as shares of
            their token's: 1 if nothing moved.
        chance: mean `jaccard` that remains if the second routing's tokens are shuffled.
        tokens: how many there are.
    """

    same_experts: float
    jaccard: float
    kept_mass: float
    chance: float
    tokens: int


def routing_consistency(one, other, seed=0):
    """Compares two routings of the same text.

    Args:
        one, other: `RoutedText`s of the same text, by mixtures of equally many experts.
        seed: integer, for the shuffle.

    Returns:
        `Consistency`.

    Raises:
        ValueError: if they are of different texts or numbers of experts, or nothing is routed.
    """
    if one.num_experts != other.num_experts:
        raise ValueError(
            "routings can only be compared of equally many experts: got "
            f"{one.num_experts} and {other.num_experts}"
        )
    for name in ("lines", "positions", "tokens"):
        if not np.array_equal(getattr(one, name), getattr(other, name)):
            raise ValueError(f"routings can only be compared of the same text: {name} differ")
    either, both, mass = overlap(one, other, np.arange(len(one.tokens)))
    routed = either > 0
    if not routed.any():
        raise ValueError("no token has an expert: there is nothing to compare")
    either, both, mass = either[routed], both[routed], mass[routed]
    order = np.random.default_rng(seed).permutation(len(one.tokens))
    by_chance, shared, _ = overlap(one, other, order)
    return Consistency(
        float((either == both).mean()),
        float((both / either).mean()),
        float(mass.mean()),
        float((shared[by_chance > 0] / by_chance[by_chance > 0]).mean()),
        int(routed.sum()),
    )


def overlap(one, other, order):
    """Of each token `[T]`: experts in either routing, experts in both, and the common gate mass.

    Args:
        one, other: `RoutedText`s.
        order: `[T]`, which token of `one` each token of `other` is compared with.
    """
    num_tokens = len(one.tokens)
    keys = one.places * one.num_experts + one.experts
    places = order[other.places]
    other_keys = places * other.num_experts + other.experts
    _, mine, theirs = np.intersect1d(keys, other_keys, assume_unique=True, return_indices=True)
    both = np.bincount(one.places[mine], minlength=num_tokens)
    common = np.minimum(one.shares[mine], other.shares[theirs])
    either = (
        np.bincount(one.places, minlength=num_tokens)
        + np.bincount(places, minlength=num_tokens)
        - both
    )
    return either, both, np.bincount(one.places[mine], common, num_tokens)
