"""The words around the tokens that an expert weighs highest (Table 9)."""

from typing import NamedTuple

import numpy as np


class Context(NamedTuple):
    """A token that an expert got, in its line.

    Attributes:
        sentence: number of the line.
        position: of the token in it.
        gate: `G(x)_i`.
        before, token, after: the text of the token, and of those around it.
    """

    sentence: int
    position: int
    gate: float
    before: str
    token: str
    after: str


def contexts(routed, expert, vocabulary, number=8, around=5):
    """Table 9 of the paper: positions sorted by `G(x)_i` of an expert, the highest first, with the
    words around them.

    A context that reads like one before it is left out.

    Args:
        routed: a `RoutedText`.
        expert: i.
        vocabulary: a `tfmoe.data_pipelines.Vocabulary` or `Subwords`.
        number: of contexts at most.
        around: tokens to show on either side.

    Returns:
        List of `Context`; empty if the expert got no token.

    Raises:
        ValueError: if there is no such expert.
    """
    if not 0 <= expert < routed.num_experts:
        raise ValueError(
            f"expert must be a number from 0 to {routed.num_experts - 1}, got {expert}"
        )
    mine = np.flatnonzero(routed.experts == expert)
    # Gate values of 1 are frequent where tokens have one expert: equal ones in a random order.
    mine = np.random.default_rng(0).permutation(mine)
    mine = mine[np.argsort(-routed.gates[mine], kind="stable")]
    found, seen = [], set()
    for pair in mine:
        place = int(routed.places[pair])
        begin, end = bounds_of_line(routed, place)
        before = routed.tokens[max(begin, place - around) : place]
        after = routed.tokens[place + 1 : min(end, place + 1 + around)]
        texts = tuple(join(vocabulary, ids) for ids in (before, routed.tokens[[place]], after))
        if texts[:2] in seen:
            continue
        seen.add(texts[:2])
        line, position = int(routed.lines[place]), int(routed.positions[place])
        found.append(Context(line, position, float(routed.gates[pair]), *texts))
        if len(found) == number:
            break
    return found


def bounds_of_line(routed, place):
    """Where in a `RoutedText` the line of a token begins and ends."""
    line = routed.lines[place]
    return np.searchsorted(routed.lines, line), np.searchsorted(routed.lines, line, side="right")


def spelling(vocabulary):
    """The function from an id to its word or piece."""
    return vocabulary.piece if hasattr(vocabulary, "piece") else vocabulary.word


def join(vocabulary, ids):
    """Text of some ids. Pieces are joined as they are, `▁` made the space that it stands for; so a
    part of a word is seen to be one.
    """
    spelled = [spelling(vocabulary)(int(index)) for index in ids]
    if hasattr(vocabulary, "piece"):
        return "".join(spelled).replace("▁", " ")
    return " ".join(spelled)
