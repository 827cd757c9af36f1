"""How pairs of sentences are batched, computed from their lengths before they are read."""

import collections
import dataclasses
import math

import numpy as np

from tfmoe.data_pipelines.bucketing import Bucketing, bucket_boundaries
from tfmoe.data_pipelines.mixing import shares_of
from tfmoe.data_pipelines.reading import TextError

PAIRS_AT_A_TIME = 1024
DRAWN_BEFORE_FLUSH = 0.95


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

    def row_lengths(self, pair):
        """The lengths of a row, `(source, target)`, from those of a pair in pieces; `None` if the
        pair is left out.
        """
        return _row_lengths(pair, self.max_length, self.tag_language)


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


@dataclasses.dataclass(frozen=True)
class Drawing:
    """How many pairs a pass draws by weight, and how they are batched.

    No row is left at the end of a pass: rare lengths would never fill a batch. What is made of the
    draws is a little less than a pass, for `take` not to cut these rows off again.

    Args:
        draws: expected number of pairs drawn in a pass.
        flush_every: number of chunks after which no row is left.
        chunk_size: pairs in a chunk.
    """

    draws: int
    flush_every: int
    chunk_size: int


def drawing_of(streams, lengths, layout):
    """Returns the `Drawing` that fills as many batches as a pass has; `None` if all weights are
    equal, so that every pair comes once.

    Args:
        streams: list of `mixing.Stream`.
        lengths: list of `Counter` of `(source pieces, target pieces)`, one for each stream.
        layout: their `Layout`.
    """
    if len({stream.weight for stream in streams}) == 1:
        return None
    batches = np.zeros(len(streams))  # that each stream would make, in parts too
    for index, counter in enumerate(lengths):
        rows = {pair: layout.row_lengths(pair) for pair in counter}
        kept = [pair for pair, row in rows.items() if row is not None]
        cells = layout.bucketing.cells_of(
            np.array([rows[pair] for pair in kept], np.int64).reshape(-1, 2)
        )
        batches[index] = np.sum([counter[pair] for pair in kept] / layout.bucketing.sizes[cells])
    of_a_draw = np.sum(shares_of(streams) * batches / [stream.pairs for stream in streams])
    draws = max(1, round(layout.batches / of_a_draw))
    flush_every = math.ceil(DRAWN_BEFORE_FLUSH * draws / PAIRS_AT_A_TIME)
    return Drawing(draws, flush_every, math.ceil(DRAWN_BEFORE_FLUSH * draws / flush_every))
