"""How pairs of sentences are batched, computed from their lengths before they are read."""

import collections
import dataclasses

from tfmoe.data_pipelines.bucketing import Bucketing, bucket_boundaries
from tfmoe.data_pipelines.reading import TextError


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the pairs of one pass are batched.

    Args:
        max_length: longest side in pieces, without tag, start and end.
        tag_language: whether a source begins with a tag.
        bucketing: a `Bucketing` of steps of source and target.
        rows_left: rows left in the cells at the end of a pass.
        batches: batches in a pass.
    """

    max_length: int
    tag_language: bool
    bucketing: Bucketing
    rows_left: int
    batches: int


def _row_lengths(pair, max_length, tag_language):
    source, target = pair
    if not (source and target) or (max_length is not None and max(pair) > max_length):
        return None
    return source + int(tag_language), target + 1


def layout_of(lengths, batch_tokens, max_length, tag_language):
    """Returns the `Layout` of texts with these lengths.

    Args:
        lengths: list of `Counter` of `(source pieces, target pieces)`.
        batch_tokens: largest number of positions of a batch of more than one row.
        max_length: largest number of pieces of a side; `None` for no limit.
        tag_language: whether a source begins with a tag.

    Raises:
        TextError: if no pair is left.
    """
    kept = collections.Counter()
    for counter in lengths:
        for pair, count in counter.items():
            row = _row_lengths(pair, max_length, tag_language)
            if row is not None:
                kept[row] += count
    if not kept:
        limit = "" if max_length is None else f" with at most {max_length} pieces on each side"
        raise TextError(f"there is no pair of sentences{limit} to make a batch of")
    longest = [max(pair[side] for pair in kept) for side in range(2)]
    bucketing = Bucketing([*map(bucket_boundaries, longest)], batch_tokens, remainder="merged")
    counts = bucketing.count_rows(kept)
    return Layout(
        max_length=max(longest[0] - int(tag_language), longest[1] - 1),
        tag_language=tag_language,
        bucketing=bucketing,
        rows_left=bucketing.count_left(counts),
        batches=bucketing.count_batches(counts),
    )
