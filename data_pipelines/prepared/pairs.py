"""Parallel text in the cache: each file as ids of pieces, and the training batches of pairs.

A file is kept once, whichever files it is paired with, in whichever direction.
"""

import collections
import dataclasses
import itertools
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from tfmoe.data_pipelines.arguments import check_at_least
from tfmoe.data_pipelines.changes import stamps
from tfmoe.data_pipelines.pair_layout import layout_of
from tfmoe.data_pipelines.parallel_files import ParallelFiles
from tfmoe.data_pipelines.parallel_text import PairLengths, sentences_of
from tfmoe.data_pipelines.prepared.batches import TrainingBatches, check_ids, inputs_and_targets
from tfmoe.data_pipelines.prepared.cached import (
    Progress,
    contents_of,
    key_of,
    read_description,
    write_description,
)
from tfmoe.data_pipelines.prepared.order import Order
from tfmoe.data_pipelines.prepared.rows import prepare_rows
from tfmoe.data_pipelines.prepared.shards import (
    SHARD_POSITIONS,
    Shards,
    ShardWriter,
    prepared_shards,
)
from tfmoe.data_pipelines.reading import TextError, is_gzip
from tfmoe.data_pipelines.sgm import is_sgm
from tfmoe.data_pipelines.subwords import Subwords
from tfmoe.data_pipelines.vocabulary import END

FORMAT = 2  # increase it when the same text gives other files
LINES_AT_A_TIME = 1 << 20  # of positions
SENTENCES_AT_A_TIME = 4096  # as text


@dataclasses.dataclass(frozen=True)
class PreparedPairs:
    """Parallel text as ids of pieces. `prepare_pairs` makes it.

    Args:
        parts: list of `ParallelFiles`.
        sides: for each pair of files of the list, in order, the `Shards` of source and target.
        lengths: for each pair of files a `Counter` of `(source pieces, target pieces)`, without
            tags and boundaries, of the pairs with pieces on both sides.
    """

    parts: Sequence[ParallelFiles]
    sides: list[tuple[Shards, Shards]]
    lengths: list[PairLengths]


def prepare_pairs(
    parts: Sequence[ParallelFiles],
    subwords: Subwords,
    folder: str | os.PathLike,
    shard_positions: int = SHARD_POSITIONS,
) -> PreparedPairs:
    """Reads parallel text once and writes it as ids into a folder, file by file.

    As `prepare_text`; the ids also depend on the subwords. Let `survey_parallel` check the text
    first.

    Args:
        parts: list of `ParallelFiles`.
        subwords: a `Subwords`.
        folder: the folder of prepared text, made if missing.
        shard_positions: number of pieces and ends of lines in a shard.

    Returns:
        A `PreparedPairs`.

    Raises:
        TextError: if a file of text is missing or not UTF-8, a file of the folder is damaged, or
            the text changes meanwhile; if a source has another number of lines than its target.
        OSError: if it cannot be written.
    """
    folder = pathlib.Path(folder)
    paths = list(dict.fromkeys(path for part in parts for path in part.source + part.target))
    known = stamps(paths)
    contents = dict(zip(paths, contents_of(paths, folder), strict=True))
    progress = Progress("preparing the text", sum(map(os.path.getsize, paths)), "bytes")
    shards = {
        path: _prepare_file(
            path, contents[path], known[path], subwords, folder, shard_positions, progress
        )
        for path in paths
    }
    pairs = [pair for part in parts for pair in part.file_pairs]
    sides = [(shards[source], shards[target]) for source, target in pairs]
    for names, (source, target) in zip(pairs, sides, strict=True):
        if source.num_lines != target.num_lines:
            raise TextError(
                f"{names[0]} has {source.num_lines} lines, but {names[1]} has {target.num_lines}: "
                "line n of the one must be the translation of line n of the other"
            )
    return PreparedPairs(parts, sides, [_lengths_of(folder, *pair) for pair in sides])


def _prepare_file(path, content, stamp, subwords, folder, shard_positions, progress):
    """Returns the `Shards` of a file, of all its lines."""
    key = key_of(["pieces", FORMAT, content, is_sgm(path), is_gzip(path), subwords.fingerprint])
    target = folder / f"pieces-{key}"
    begun = progress.done

    def write():
        writer = ShardWriter(target, {path: stamp}, shard_positions)
        _write_file(path, writer, subwords, progress)

    shards = prepared_shards(target, write)
    progress.skip(begun + os.path.getsize(path) - progress.done)
    return shards


def _write_file(path, writer, subwords, progress):
    line = writer.shards[-1]["text_end"] if writer.shards else 0
    sentences = itertools.islice(sentences_of(path), line, None)
    try:
        while chunk := list(itertools.islice(sentences, SENTENCES_AT_A_TIME)):
            lines = subwords.encode_lines(chunk)
            for ids in lines:
                ids.append(END)
            lengths = np.fromiter(map(len, lines), np.int64, len(lines))
            ids = np.fromiter(itertools.chain.from_iterable(lines), np.int32, lengths.sum())
            writer.write(lengths - 1, ids)
            line += len(chunk)
            progress.add(sum(map(len, chunk)) + len(chunk))
            if writer.is_full():
                writer.finish_shard(line)
        writer.finish_shard(line)
    finally:
        writer.discard()
    writer.finish({})


def _chunks(source, target):
    """Yields the lines of two files of pieces: `(begins, lengths)`, int64 `[lines, 2]`, of those
    with pieces on both sides.
    """
    for line in range(0, source.num_lines, LINES_AT_A_TIME):
        sides = [side.lines(line, line + LINES_AT_A_TIME) for side in (source, target)]
        begins, lengths = (np.stack(parts, 1) for parts in zip(*sides, strict=True))
        kept = (lengths > 0).all(1)
        yield begins[kept], lengths[kept]


def _lengths_of(folder, source, target):
    """The `Counter` of the lengths of a pair of files, kept in the folder."""
    path = folder / "lengths" / f"{key_of([source.folder.name, target.folder.name])}.json"
    known = read_description(path, damaged=dict)
    if not known:
        counter: PairLengths = collections.Counter()
        for _, lengths in _chunks(source, target):
            packed, counts = np.unique(lengths[:, 0] << 32 | lengths[:, 1], return_counts=True)
            pairs = zip((packed >> 32).tolist(), (packed & 0xFFFFFFFF).tolist(), strict=True)
            counter.update(dict(zip(pairs, counts.tolist(), strict=True)))
        known = {"lengths": [[*pair, count] for pair, count in sorted(counter.items())]}
        write_description(path, known)
    return collections.Counter({(s, t): count for s, t, count in known["lengths"]})


class PairBatches(TrainingBatches):
    """Batches of a translation model; `pair_training_batches` makes them.

    Args:
        order: the `Order` of the rows.
        rows: the `Rows`.
        sides: for each text the `Shards` of source and target.
        tags: for each text the id that begins a source, or `None` for none.
        num_ids: size of the vocabulary.
    """

    NUM_ARRAYS = 3

    def __init__(self, order: Order, rows, sides, tags, num_ids):
        super().__init__(order, rows)
        self._sides, self._tags = sides, tags
        self._num_ids = num_ids

    @staticmethod
    def structure(arrays):
        source, inputs, targets = arrays
        return (source, inputs), targets

    def read(self, batch, replica=0, replicas=1):
        rows = self.order.rows_of(batch, replica, replicas)
        steps = rows.steps.tolist()
        ids = [np.empty([len(rows.rows), 1 + size], np.int32) for size in steps]
        for text in np.unique(rows.texts).tolist():
            in_text = rows.texts == text
            for side, shards in enumerate(self._sides[text]):
                begins = self.rows.positions(side, rows.rows[in_text], shards)
                ids[side][in_text] = shards.read(begins, steps[side])
                check_ids(ids[side][in_text], self._num_ids, shards)
        inputs, targets = inputs_and_targets(ids[1])
        tags = self._tags[0] is not None and np.array(self._tags, np.int32)[rows.texts]
        return _source(ids[0], tags), inputs, targets


def _source(rows, tags):
    """The sources, int32 `[B, S]`, of ids `[B, 1 + S]`. `tags`: int32 `[B]`, or `False`."""
    _, sources = inputs_and_targets(rows)
    if tags is False:
        return sources
    return np.concatenate([tags[:, None], sources[:, :-1]], 1)


def pair_training_batches(
    text: PreparedPairs,
    subwords: Subwords,
    folder: str | os.PathLike,
    *,
    batch_tokens: int,
    max_length: int | None,
    seed: int = 0,
    tag_language: bool = False,
) -> PairBatches:
    """Batches prepared parallel text for training a translation model.

    Pairs with more than `max_length` pieces on a side are left out. Files and directions are mixed.
    If all weights are equal, a pass has every pair once. Otherwise see `order`.

    Args:
        text: what `prepare_pairs` returned.
        subwords: its `Subwords`.
        folder: the folder of prepared text, for the files that say where rows begin.
        batch_tokens: largest number of positions in a batch, source and target together, padding
            included. A batch has `B · (S + T) <= batch_tokens`, or one row.
        max_length: largest number of pieces of a side, without tag, start and end. `None`: no
            limit.
        seed: integer.
        tag_language: whether a source begins with the id of its target language, `<2fr>`.

    Returns:
        A `PairBatches`. Its dataset yields `((source, target_inputs), targets)`, all int32, `[B,
        S]`, `[B, T]` and `[B, T]`, padded with 0. S and T are one of `bucket_boundaries` each.

    Raises:
        ValueError: if an argument is out of its range, or a language is not in `subwords`.
        TextError: if no pair is left, or a file of the folder is damaged.
    """
    check_at_least(1, batch_tokens=batch_tokens)
    check_at_least(0, seed=seed)
    if max_length is not None:
        check_at_least(1, max_length=max_length)
    files = [part for part in text.parts for _ in part.source]
    tags = [subwords.language_id(f.target_language) if tag_language else None for f in files]
    layout = layout_of(text.lengths, batch_tokens, max_length, tag_language)
    rows = prepare_rows(
        pathlib.Path(folder),
        [
            "pairs",
            [[side.identity for side in sides] for sides in text.sides],
            [layout.max_length, tag_language],
            [side.tolist() for side in layout.bucketing.boundaries],
        ],
        [lambda sides=sides: _rows_of(sides, layout) for sides in text.sides],
        layout.bucketing,
    )
    order = Order(rows.counts, [part.weight for part in files], layout.bucketing, seed)
    return PairBatches(order, rows, text.sides, tags, len(subwords))


def _rows_of(sides, layout):
    """Yields `(begins, lengths)` of the rows of pairs, as `prepare_rows` takes them."""
    for begins, lengths in _chunks(*sides):
        kept = (lengths <= layout.max_length).all(1)
        yield begins[kept], lengths[kept] + [int(layout.tag_language), 1]
