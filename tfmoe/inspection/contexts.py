"""The contexts of the tokens with the largest gate values of an expert (Table 9)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

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
    vocabulary: Any = None,
    number: int = 8,
    around: int = 5,
) -> list[Context]:
    """The tokens with the largest gate values `G(x)_i` of an expert, with their contexts (Table 9).

    Repeated contexts are skipped.

    Args:
        routed: a `RoutedText`.
        expert: i.
        vocabulary: the texts of ids, see `spelling`.
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
    if hasattr(vocabulary, "get_vocabulary"):
        vocabulary = vocabulary.get_vocabulary()  # once: a layer reads it from a table
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


def spelling(vocabulary: Any = None) -> Callable[[int], str]:
    """The function from an id to its text.

    Args:
        vocabulary: a `tfmoe.data_pipelines.Vocabulary` or `Subwords`; a list of texts, such as
            `TextVectorization.get_vocabulary()`; a layer with this method; a tokenizer of KerasHub;
            a function from an id to its text; or `None` for the ids themselves.

    Raises:
        ValueError: it is none of these; or, in a call, a list has no such id.

    Example:
        >>> spelling(["", "[UNK]", "cat"])(2)
        'cat'
        >>> spelling()(2)
        '2'
    """
    if vocabulary is None:
        return str
    for method in ("piece", "word", "id_to_token"):
        if hasattr(vocabulary, method):
            return getattr(vocabulary, method)
    if hasattr(vocabulary, "get_vocabulary"):
        vocabulary = vocabulary.get_vocabulary()
    elif callable(vocabulary):
        return vocabulary
    if isinstance(vocabulary, (str, bytes)) or not hasattr(vocabulary, "__getitem__"):
        raise ValueError(
            "vocabulary must be a tfmoe.data_pipelines.Vocabulary or Subwords, a list of texts "
            "(TextVectorization.get_vocabulary()), a function from an id to its text, or None, "
            f"got {vocabulary!r:.100}"
        )
    return Words(vocabulary)


class Words:
    """The texts of ids, from a list or an array.

    Args:
        texts: the text of each id, from 0.
    """

    def __init__(self, texts):
        self.texts = texts

    def __call__(self, index: int) -> str:
        """The text of an id."""
        if not 0 <= index < len(self.texts):
            raise ValueError(
                f"the vocabulary has the ids 0 to {len(self.texts) - 1}, and the text has {index}"
            )
        return str(self.texts[index])


def join_tokens(vocabulary, ids):
    """The text of ids. Subwords are concatenated with `▁` replaced by a space, so parts of words
    stay recognisable.
    """
    words = [spelling(vocabulary)(int(index)) for index in ids]
    if hasattr(vocabulary, "piece"):
        return "".join(words).replace("▁", " ")
    return " ".join(words)
