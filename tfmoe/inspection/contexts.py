"""The contexts of the tokens with the largest gate values of an expert (Table 9)."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tfmoe.data_pipelines import Subwords, Vocabulary
from tfmoe.inspection.routing import RoutedText


class Context(NamedTuple):
    """A token routed to an expert, and its context.

    Attributes:
        sentence: line number.
        position: position of the token in the line.
        gate: `G(x)_i`.
        before: text before the token.
        token: text of the token.
        after: text after the token.
    """

    sentence: int
    position: int
    gate: float
    before: str
    token: str
    after: str


def contexts(
    routed: RoutedText,
    expert: int,
    vocabulary: Vocabulary | Subwords,
    number: int = 8,
    around: int = 5,
) -> list[Context]:
    """The tokens with the largest gate values `G(x)_i` of an expert, with their contexts (Table 9).

    Repeated contexts are skipped.

    Args:
        routed: a `RoutedText`.
        expert: i.
        vocabulary: a `tfmoe.data_pipelines.Vocabulary` or `Subwords`.
        number: maximum number of contexts.
        around: tokens shown on each side.

    Returns:
        Contexts, largest gate value first; empty if the expert received no token.

    Raises:
        ValueError: if there is no such expert.
    """
    if not 0 <= expert < routed.num_experts:
        raise ValueError(
            f"expert must be a number from 0 to {routed.num_experts - 1}, got {expert}"
        )
    pairs = np.flatnonzero(routed.experts == expert)
    # Equal gate values are in random order: with one expert per token, many are 1.
    pairs = np.random.default_rng(0).permutation(pairs)
    pairs = pairs[np.argsort(-routed.gates[pairs], kind="stable")]
    result, seen = [], set()
    for pair in pairs:
        index = int(routed.places[pair])
        start, end = line_bounds(routed, index)
        before = routed.tokens[max(start, index - around) : index]
        after = routed.tokens[index + 1 : min(end, index + 1 + around)]
        texts = tuple(
            join_tokens(vocabulary, ids) for ids in (before, routed.tokens[[index]], after)
        )
        if texts[:2] in seen:
            continue
        seen.add(texts[:2])
        line, position = int(routed.lines[index]), int(routed.positions[index])
        result.append(Context(line, position, float(routed.gates[pair]), *texts))
        if len(result) == number:
            break
    return result


def line_bounds(routed, index):
    """The start and end of a token's line, as indices of tokens.

    Args:
        routed: a `RoutedText`.
        index: index of the token.
    """
    line = routed.lines[index]
    return np.searchsorted(routed.lines, line), np.searchsorted(routed.lines, line, side="right")


def spelling(vocabulary: Vocabulary | Subwords) -> Callable[[int], str]:
    """The function from an id to its word or subword.

    Args:
        vocabulary: a `tfmoe.data_pipelines.Vocabulary` or `Subwords`.
    """
    return vocabulary.piece if hasattr(vocabulary, "piece") else vocabulary.word


def join_tokens(vocabulary, ids):
    """The text of ids. Subwords are concatenated with `▁` replaced by a space, so parts of words
    stay recognisable.
    """
    words = [spelling(vocabulary)(int(index)) for index in ids]
    if hasattr(vocabulary, "piece"):
        return "".join(words).replace("▁", " ")
    return " ".join(words)
