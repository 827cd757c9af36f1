"""Pairs of sentences of parallel text: reading, checking, counting.

Files are text (what a line is, is said in `reading`) or `.sgm` files. A sentence is a line's words
with one space between them; the text is not tokenised. A pair with a blank line on either side
cannot be used.
"""

import collections
import dataclasses
import itertools

from tfmoe.data_pipelines.reading import TextError, read_lines
from tfmoe.data_pipelines.sgm import is_sgm, read_sgm

PAIRS_AT_A_TIME = 4096


@dataclasses.dataclass(frozen=True)
class ParallelSurvey:
    """What one reading of parallel text found.

    Args:
        pairs: number of pairs with words on both sides.
        empty: number of pairs left out because a side is blank.
        source_words: number of words of the sources, as white space separates them.
        target_words: number of words of the targets.
        lengths: for each pair of files a `Counter` of `(source pieces, target pieces)`, without
            tags and boundaries. `None` if there was no subword model.
    """

    pairs: int
    empty: int
    source_words: int
    target_words: int
    lengths: list[collections.Counter] | None


def count_longer(lengths, max_length):
    """Returns how many pairs have more than `max_length` pieces on either side.

    Args:
        lengths: list of `Counter` of `(source pieces, target pieces)`.
        max_length: integer.
    """
    return sum(
        count for counter in lengths for pair, count in counter.items() if max(pair) > max_length
    )


def _sentences(path):
    """Yields every line of a file as a sentence, as bytes; blank lines as `b""`."""
    if is_sgm(path):
        yield from read_sgm(path)
        return
    for line in read_lines(path):
        yield b" ".join(line.split())


def _pairs(source, target):
    """Yields `(number from 1, source, target)` of a pair of files, as bytes, blank sides too."""
    sources, targets = _sentences(source), _sentences(target)
    number = 0
    for number, pair in enumerate(itertools.zip_longest(sources, targets), 1):
        if None in pair:
            rest = sum(1 for _ in (targets if pair[0] is None else sources))
            counts = (number - 1, number + rest)
            counts = counts if pair[0] is None else counts[::-1]
            raise TextError(
                f"{source} has {counts[0]} lines, but {target} has {counts[1]}: line n of the one"
                " must be the translation of line n of the other"
            )
        yield number, *pair
    if not number:
        raise TextError(f"{source}, {target}: the files are empty; they must hold sentences")


def _usable(source, target, empty):
    """Yields `(source, target)` of a pair of files, or `None` for a pair that is left out."""
    if empty not in ("error", "skip"):
        raise ValueError(f"empty must be 'error' or 'skip', got {empty!r}")
    for number, *pair in _pairs(source, target):
        if all(pair):
            yield pair
        elif empty == "skip":
            yield None
        else:
            blank = target if pair[0] else source
            place = f"{blank}, segment {number}" if is_sgm(blank) else f"{blank}:{number}"
            raise TextError(
                f"{place}: nothing is here, so the other side has no translation; remove the line"
                " from both files"
            )


def sentence_pairs(files, empty="error"):
    """Yields `(source, target)`, strings, for every pair of sentences, in the order of the files.

    Args:
        files: a `ParallelFiles`.
        empty: what to do with a pair of which a side is blank: "error", or "skip" to leave it out.

    Raises:
        ValueError: if `empty` is something else.
        TextError: on a blank side, if `empty` is "error"; if two files differ in their numbers of
            lines; as `reading.read_lines`.
    """
    for source, target in files.file_pairs:
        for pair in _usable(source, target, empty):
            if pair:
                yield pair[0].decode("utf-8"), pair[1].decode("utf-8")


def survey_parallel(files, subwords=None, empty="error"):
    """Reads parallel text once, from beginning to end, checks it and counts.

    Memory does not grow with the text.

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
        counter, before = collections.Counter(), pairs
        every = _usable(source, target, empty)
        while chunk := list(itertools.islice(every, PAIRS_AT_A_TIME)):
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
    return ParallelSurvey(pairs, empties, *words, None if subwords is None else lengths)
