"""Batches for training and evaluating translation models: pairs of sentences.

A pair `s1 … sm`, `w1 … wn` is the source `s1 … sm`, the target inputs `<s> w1 … wn` and the targets
`w1 … wn </s>`. A pair with a blank side is skipped.

Training reads all files at the same time, in proportion to their lengths. If all weights are equal,
a pass has every pair once. Otherwise a pass has as many batches, drawn from all languages: the
share of language p is `w_p·N_p / Σ w·N`; the next pass continues in each file about where this one
ended. Pairs with more than `max_length` pieces on either side are skipped.

Evaluation sees every pair once in a pass, however long, in the order of the files as far as
bucketing allows; weights do not count.

Axes: B batch (pairs), S steps of the source, T steps of the target. Ids and padding are those of
`Subwords`.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import tensorflow as tf

from tfmoe.data_pipelines.mixing import (
    BATCHES,
    STREAMS,
    Stream,
    mixed,
    one_after_the_other,
    streams_of,
)
from tfmoe.data_pipelines.pair_layout import PAIRS_AT_A_TIME, Drawing, Layout, drawing_of, layout_of
from tfmoe.data_pipelines.parallel_files import ParallelFiles
from tfmoe.data_pipelines.parallel_text import PairLengths, survey_parallel
from tfmoe.data_pipelines.passes import check_at_least, check_reading, repeat_passes, seeds_of_pass
from tfmoe.data_pipelines.reading import TextError, drop_byte_order_mark
from tfmoe.data_pipelines.subwords import Subwords
from tfmoe.data_pipelines.vocabulary import START

BATCHES_TO_SHUFFLE = 256


def parallel_batches(
    files_list: ParallelFiles | Sequence[ParallelFiles],
    subwords: Subwords,
    *,
    batch_tokens: int,
    max_length: int | None,
    shuffle: bool = True,
    shuffle_buffer: int = 100_000,
    seed: int = 0,
    passes: int | None = None,
    start_batch: int = 0,
    lengths: Sequence[PairLengths] | None = None,
    tag_language: bool = False,
) -> tf.data.Dataset:
    """Reads parallel text as padded batches of next-piece prediction, given the source.

    Pairs of similar lengths make a batch. The batches depend on the arguments alone, see `passes`.

    Args:
        files_list: a `ParallelFiles` or a list of them. Let `survey_parallel` check them first:
            here bytes that are not UTF-8 become unknown pieces.
        subwords: a `Subwords`.
        batch_tokens: largest number of positions in a batch, source and target together, padding
            included. A batch has `B · (S + T) <= batch_tokens`, or one row.
        max_length: largest number of pieces of a side in training, without tag, start and end.
            `None`: no limit. Without a meaning if `shuffle` is false.
        shuffle: whether to shuffle, as training wants it.
        shuffle_buffer: number of pairs held for shuffling, as text, of all files together.
        seed: integer.
        passes: how often the text is read. `None`: without end.
        start_batch: number of batches to skip, to resume a run.
        lengths: what `pair_lengths(files_list, subwords)` returns. `None`: the files are read for
            it.
        tag_language: whether a source begins with the id of its target language, `<2fr>`.

    Returns:
        Dataset of `((source, target_inputs), targets)`, all int32, `[B, S]`, `[B, T]` and `[B, T]`,
        padded with 0; the masks are `source != 0` and `target_inputs != 0`. Its cardinality is
        known. S and T are one of `bucket_boundaries` each.

    Raises:
        ValueError: if an argument is out of its range, or a language is not in `subwords`.
        TextError: if a file is missing, or if no pair can be used; if the files are read for
            `lengths`, as `survey_parallel`.
        tf.errors.InvalidArgumentError: while reading, if `lengths` are not those of the files.
    """
    check_at_least(1, batch_tokens=batch_tokens)
    if max_length is not None:
        check_at_least(1, max_length=max_length)
    check_reading(
        shuffle=shuffle, shuffle_buffer=shuffle_buffer, passes=passes, start_batch=start_batch
    )
    parts = _as_list(files_list)
    tags = [subwords.language_id(part.target_language) if tag_language else 0 for part in parts]
    lengths = pair_lengths(parts, subwords) if lengths is None else lengths
    layout = layout_of(lengths, batch_tokens, max_length if shuffle else None, tag_language)
    streams = streams_of(parts, tags, [sum(counter.values()) for counter in lengths])
    tokenizer = subwords.tokenizer()
    if shuffle:
        drawing = drawing_of(streams, lengths, layout)
        reading: _Evaluation = _Training(streams, tokenizer, layout, drawing, seed, shuffle_buffer)
    else:
        reading = _Evaluation(streams, tokenizer, layout)
    return repeat_passes(
        reading.one_pass,
        passes=passes,
        start_batch=start_batch,
        batches_in_a_pass=layout.batches,
    )


def pair_lengths(
    files_list: ParallelFiles | Sequence[ParallelFiles], subwords: Subwords
) -> list[PairLengths]:
    """Reads parallel text once, in constant memory, and counts the lengths of its pairs. Pairs with
    a blank side are skipped.

    Args:
        files_list: a `ParallelFiles` or a list of them.
        subwords: a `Subwords`.

    Returns:
        For each pair of files of the list, in order, a `Counter` from `(source pieces, target
        pieces)` to number of pairs.

    Raises:
        TextError: as `survey_parallel` with `empty="skip"`.
    """
    surveys = [survey_parallel(files, subwords, empty="skip") for files in _as_list(files_list)]
    return list(itertools.chain.from_iterable(survey.lengths or () for survey in surveys))


def parallel_batches_per_pass(
    lengths: Sequence[PairLengths],
    *,
    batch_tokens: int,
    max_length: int | None,
    tag_language: bool = False,
) -> int:
    """Returns how many batches `parallel_batches` makes of the files in one pass.

    Args:
        lengths: what `pair_lengths` returns.
        batch_tokens: as for `parallel_batches`.
        max_length: as for `parallel_batches`; `None` for evaluation, which leaves no pair out.
        tag_language: as for `parallel_batches`.

    Raises:
        TextError: if no pair is as short as `max_length`.
    """
    return layout_of(lengths, batch_tokens, max_length, tag_language).batches


def _as_list(files_list):
    files_list = [files_list] if isinstance(files_list, ParallelFiles) else list(files_list)
    if not any(files.source for files in files_list):
        raise TextError("no parallel text given: give at least one pair of files")
    return files_list


@dataclasses.dataclass(frozen=True)
class _Evaluation:
    """Every pair once, in order. `tokenizer`: `Subwords.tokenizer()`."""

    streams: list[Stream]
    tokenizer: object
    layout: Layout

    def one_pass(self, pass_index):
        """Returns the dataset of the batches of a pass. `pass_index`: int64 `[]`."""
        rows = _rows_of(one_after_the_other(self.streams), PAIRS_AT_A_TIME, self)
        return self.layout.bucketing.batch(rows, self.layout.rows_left).map(_sides)


@dataclasses.dataclass(frozen=True)
class _Training(_Evaluation):
    """Shuffled and mixed. `drawing`: `None` if every pair comes once."""

    drawing: Drawing | None
    seed: int
    shuffle_buffer: int

    def one_pass(self, pass_index):
        draws = self.drawing.draws if self.drawing else 0
        pairs = mixed(self.streams, draws, self.seed, pass_index, self.shuffle_buffer)
        bucketing = self.layout.bucketing
        if self.drawing:
            rows = _rows_of(pairs, self.drawing.chunk_size, self)
            batches = bucketing.batch(rows, flush_every=self.drawing.flush_every)
            batches = batches.take(self.layout.batches)
        else:
            rows = _rows_of(pairs, PAIRS_AT_A_TIME, self)
            batches = bucketing.batch(rows, self.layout.rows_left)
        return batches.map(_sides).shuffle(
            BATCHES_TO_SHUFFLE,
            seeds_of_pass(self.seed, pass_index, STREAMS)[BATCHES],
            reshuffle_each_iteration=False,
        )


def _rows_of(pairs, chunk_size, reading):
    """Dataset of chunks of rows, see `_rows`."""
    return pairs.batch(chunk_size).map(
        lambda *chunk: _rows(chunk, reading.tokenizer, reading.layout),
        num_parallel_calls=tf.data.AUTOTUNE,
    )


def _sides(parts, steps):
    """Returns `((source, target_inputs), targets)` of rows, cut to the steps of their batch."""
    sources, targets = parts
    inputs = sources[:, : steps[0]], targets[:, : steps[1]]
    return inputs, targets[:, 1 : steps[1] + 1]


def _sentences(lines):
    """Makes sentences of lines, as `parallel_text.sentence_pairs` does. Strings of any shape."""
    lines = drop_byte_order_mark(tf.strings.regex_replace(lines, r"\r", ""))
    return tf.strings.strip(tf.strings.regex_replace(lines, r"[ \t\v\f]+", " "))


def _rows(chunk, tokenizer, layout):
    """Makes rows of ids of pairs of lines; skips those that are too long or blank.

    Args:
        chunk: `(sources, targets, tags)`, strings, strings and int32, all `[N]`.
        tokenizer: `Subwords.tokenizer()`.
        layout: a `Layout`.

    Returns:
        `(sources, targets, cells)`: ids int32 `[R, largest S]` and `[R, largest T + 1]`, the latter
        of target inputs and targets overlapping by all but one, padded with 0; and the number of
        each row's cell, int64 `[R]`.
    """
    sources, targets, tags = chunk
    sources = tokenizer.tokenize(_sentences(sources))
    targets = tokenizer.tokenize(_sentences(targets))
    counts = tf.stack([sources.row_lengths(), targets.row_lengths()], 1)
    kept = tf.reduce_all((counts > 0) & (counts <= layout.max_length), 1)
    sources, targets = tf.ragged.boolean_mask(sources, kept), tf.ragged.boolean_mask(targets, kept)
    if layout.tag_language:
        sources = tf.concat([tf.boolean_mask(tags, kept)[:, None], sources], 1)
    targets = tf.concat([tf.fill([tf.size(targets.row_lengths()), 1], START), targets], 1)
    widest = [int(side[-1]) for side in layout.bucketing.boundaries]
    return (
        sources.to_tensor(shape=[None, widest[0]]),
        targets.to_tensor(shape=[None, widest[1] + 1]),
        layout.bucketing.cells_in_graph([sources.row_lengths(), targets.row_lengths()]),
    )
