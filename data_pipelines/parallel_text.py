"""Pairs of sentences of parallel text: reading, checking, counting.

Files are text (`reading` defines a line) or `.sgm` files. A sentence is a line's words with one
space between them; the text is not tokenised. A pair with a blank line on either side cannot be
used.
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterator, Sequence

from tfmoe.data_pipelines.parallel_files import ParallelFiles
from tfmoe.data_pipelines.reading import TextError, read_lines
from tfmoe.data_pipelines.sgm import is_sgm, read_sgm
from tfmoe.data_pipelines.subwords import Subwords

PAIRS_AT_A_TIME = 4096
PairLengths = collections.Counter[tuple[int, int]]  # of (source pieces, target pieces)


@dataclasses.dataclass(frozen=True)
class ParallelSurvey:
    """Statistics of parallel text.

    Args:
        pairs: number of pairs with words on both sides.
        empty: number of pairs that were skipped because a side is blank.
        source_words: number of words of the sources, as white space separates them.
        target_words: number of words of the targets.
        lengths: for each pair of files a `Counter` of `(source pieces, target pieces)`, without
            tags and boundaries. `None` if there was no subword model.
    """

    pairs: int
    empty: int
    source_words: int
    target_words: int
    lengths: list[PairLengths] | None


def count_longer(lengths: Sequence[PairLengths], max_length: int) -> int:
    """Returns how many pairs have more than `max_length` pieces on either side.

    Args:
        lengths: list of `Counter` of `(source pieces, target pieces)`.
        max_length: integer.
    """
    return sum(
        count for counter in lengths for pair, count in counter.items() if max(pair) > max_length
    )


def sentences_of(path):
    """Yields every line of a file as a sentence, as bytes; blank lines as `b""`."""
    if is_sgm(path):
        yield from read_sgm(path)
        return
    for line in read_lines(path):
        yield b" ".join(line.split())


def _pairs(source, target):
    """Yields `(line number from 1, source, target)`, as bytes, of all lines of a pair of files."""
    sources, targets = sentences_of(source), sentences_of(target)
    line_number = 0
    for line_number, pair in enumerate(itertools.zip_longest(sources, targets), 1):
        if None in pair:
            rest = sum(1 for _ in (targets if pair[0] is None else sources))
            counts = (line_number - 1, line_number + rest)
            counts = counts if pair[0] is None else counts[::-1]
            raise TextError(
                f"{source} has {counts[0]} lines, but {target} has {counts[1]}: line n of the one"
                " must be the translation of line n of the other"
            )
        yield line_number, *pair
    if not line_number:
        raise TextError(f"{source}, {target}: the files are empty; they must hold sentences")


def _usable(source, target, empty):
    """Yields `(source, target)` of a pair of files, or `None` for a skipped pair."""
    if empty not in ("error", "skip"):
        raise ValueError(f"empty must be 'error' or 'skip', got {empty!r}")
    for line_number, *pair in _pairs(source, target):
        if all(pair):
            yield pair
        elif empty == "skip":
            yield None
        else:
            blank = target if pair[0] else source
            unit = ", segment " if is_sgm(blank) else ":"
            raise TextError(
                f"{blank}{unit}{line_number}: the line is blank, so the other side has no"
                " translation; remove the line from both files"
            )


def sentence_pairs(files: ParallelFiles, empty: str = "error") -> Iterator[tuple[str, str]]:
    """Yields `(source, target)`, strings, for every pair of sentences, in the order of the files.

    Args:
        files: a `ParallelFiles`.
        empty: what to do with a pair that has a blank side: "error" or "skip".

    Raises:
        ValueError: if `empty` is something else.
        TextError: on a blank side, if `empty` is "error"; if two files differ in their line
            counts; as `reading.read_lines`.
    """
    for source, target in files.file_pairs:
        for pair in _usable(source, target, empty):
            if pair:
                yield pair[0].decode("utf-8"), pair[1].decode("utf-8")


def survey_parallel(
    files: ParallelFiles, subwords: Subwords | None = None, empty: str = "error"
) -> ParallelSurvey:
    """Reads parallel text once, in constant memory, checks it and counts.

    Args:
        files: a `ParallelFiles`.
        subwords: a `Subwords`, to count pieces. `None`: `lengths` is `None`.
        empty: as for `sentence_pairs`.

    Returns:
        A `ParallelSurvey`.

    Raises:
        ValueError: if `empty` is not known.
        TextError: as `sentence_pairs`; if a pair of files has no pair with words on both sides.
    """
    empties, words, lengths = 0, [0, 0], []
    pairs = 0
    for source, target in files.file_pairs:
        counter: PairLengths = collections.Counter()
        before = pairs
        usable = _usable(source, target, empty)
        while chunk := list(itertools.islice(usable, PAIRS_AT_A_TIME)):
            kept = [pair for pair in chunk if pair]
            empties += len(chunk) - len(kept)
            pairs += len(kept)
            sides = list(zip(*kept, strict=True)) if kept else []
            for side, texts in enumerate(sides):
                words[side] += sum(text.count(b" ") + 1 for text in texts)
            if subwords is not None and kept:
                counter.update(
                    zip(*(subwords.encoded_lengths(list(texts)) for texts in sides), strict=True)
                )
        if pairs == before:
            raise TextError(f"{source}, {target}: no pair of lines has words on both sides")
        lengths.append(counter)
    source_words, target_words = words
    return ParallelSurvey(
        pairs, empties, source_words, target_words, None if subwords is None else lengths
    )
