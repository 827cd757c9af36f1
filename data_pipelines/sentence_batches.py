"""Batches for training and evaluating language models.

A sentence `w1 … wn` is the inputs `<S> w1 … wn` and the targets `w1 … wn </S>`. If these are more
than `max_length` predictions, they are cut into rows that continue each other: every word, and
every end of sentence, is predicted exactly once, in training and in evaluation.

Axes: B batch (rows), S steps (positions of a row). Ids and padding are those of `Vocabulary`.
"""

import collections
import dataclasses
import itertools

import tensorflow as tf

from tfmoe.data_pipelines.bucketing import Bucketing, bucket_boundaries
from tfmoe.data_pipelines.passes import check_at_least, check_reading, repeat_passes, seeds_of_pass
from tfmoe.data_pipelines.reading import TextError, drop_byte_order_mark, line_dataset
from tfmoe.data_pipelines.text import Paths, find_files, sentences
from tfmoe.data_pipelines.vocabulary import START, Vocabulary

LINES_AT_A_TIME = 1024
ROWS_AT_A_TIME = 4096
BATCHES_TO_SHUFFLE = 32


def language_model_batches(
    files: Paths,
    vocabulary: Vocabulary,
    *,
    batch_tokens: int,
    max_length: int,
    shuffle: bool = True,
    shuffle_buffer: int = 100_000,
    seed: int = 0,
    passes: int | None = None,
    start_batch: int = 0,
    lengths: collections.Counter[int] | None = None,
    shard_index: int = 0,
    shard_count: int = 1,
) -> tf.data.Dataset:
    """Reads text files as padded batches of next-word prediction.

    Rows of similar length make a batch; the last batches of a pass may have fewer rows, and nothing
    is dropped. The batches depend on the arguments alone, see `passes`.

    Args:
        files: a path or glob or a list of them. Let `survey` check the text first: here bytes that
            are not UTF-8 become unknown words.
        vocabulary: a `Vocabulary`.
        batch_tokens: number of positions in a batch, padding included. A batch of S steps has
            `max(1, batch_tokens // S)` rows.
        max_length: largest S.
        shuffle: whether to shuffle files, rows and batches. If false the rows come in the order of
            the files, as far as bucketing allows.
        shuffle_buffer: number of rows held for shuffling, of `4·(max_length + 1)` bytes each.
        seed: integer.
        passes: number of passes over the files. `None`: without end.
        start_batch: number of batches to skip, to resume a run.
        lengths: `Counter` of sentence lengths in words in this shard, which gives the dataset its
            cardinality; for a single shard `survey(files).lengths`. `None`: the files are read for
            it if `start_batch` needs it.
        shard_index: which part to read, from 0.
        shard_count: number of parts. Every sentence is in exactly one, the same in all passes.

    Returns:
        Dataset of `(inputs, targets)`, both int32 `[B, S]`, padded with 0; the mask is `inputs !=
        0`.

    Raises:
        ValueError: if an argument is out of its range.
        TextError: if a file is missing, or if there is no sentence in the files or in the shard.
    """
    check_at_least(1, batch_tokens=batch_tokens, max_length=max_length)
    check_reading(
        shuffle=shuffle, shuffle_buffer=shuffle_buffer, passes=passes, start_batch=start_batch
    )
    shard = _Shard(find_files(files), shard_index, shard_count)
    shard.check_not_empty()
    if start_batch and lengths is None:
        lengths = shard.lengths()
    sizes = {"batch_tokens": batch_tokens, "max_length": max_length}
    buffer = shuffle_buffer if shuffle else None
    reading = _Reading(shard, vocabulary.lookup_table(), buffer, seed, _bucketing(**sizes))
    return repeat_passes(
        reading.one_pass,
        passes=passes,
        start_batch=start_batch,
        batches_in_a_pass=None if lengths is None else batches_per_pass(lengths, **sizes),
    )


def sentence_lengths(
    files: Paths, shard_index: int = 0, shard_count: int = 1
) -> collections.Counter[int]:
    """Counts the sentence lengths of one shard, as `language_model_batches` divides the files.

    Args:
        files: a path or glob or a list of them.
        shard_index: which part, from 0.
        shard_count: number of parts: sentence i of a file, from 0, is in part `i % shard_count`.

    Returns:
        `Counter` from words in a sentence to number of sentences.
    """
    return _Shard(find_files(files), shard_index, shard_count).lengths()


def batches_per_pass(
    lengths: collections.Counter[int], *, batch_tokens: int, max_length: int
) -> int:
    """Returns how many batches `language_model_batches` makes of the files in one pass.

    Args:
        lengths: `Counter` of sentence lengths in words: `survey(files).lengths`, or
            `sentence_lengths` of a shard.
        batch_tokens: as for `language_model_batches`.
        max_length: as for `language_model_batches`.

    Raises:
        ValueError: if `lengths` is empty.
    """
    if not lengths:
        raise ValueError("lengths is empty: there is no sentence to make a batch of")
    rows: collections.Counter[tuple[int]] = collections.Counter()
    for words, count in lengths.items():
        full, rest = divmod(words + 1, max_length)
        rows[max_length,] += full * count
        if rest:
            rows[rest,] += count
    bucketing = _bucketing(batch_tokens, max_length)
    return bucketing.count_batches(bucketing.count_rows(rows))


def _bucketing(batch_tokens, max_length):
    return Bucketing([bucket_boundaries(max_length)], batch_tokens, remainder="separate")


@dataclasses.dataclass(frozen=True)
class _Shard:
    """One shard of text files: sentence i of a file is in shard i % count."""

    files: list[str]
    index: int
    count: int

    def __post_init__(self):
        check_at_least(1, shard_count=self.count)
        check_at_least(0, shard_index=self.index)
        if self.index >= self.count:
            raise ValueError(
                f"shard_index must be less than shard_count={self.count}, got {self.index}"
            )

    def sentences(self):
        """Yields the sentences, as lists of words (bytes)."""
        for file in self.files:
            for _, words in itertools.islice(sentences(file), self.index, None, self.count):
                yield words

    def lengths(self):
        """`Counter` of sentence lengths in words."""
        return collections.Counter(map(len, self.sentences()))

    def check_not_empty(self):
        """An endless dataset of an empty shard would hang."""
        if next(self.sentences(), None) is None:
            names = ", ".join(self.files[:3]) + (" …" if len(self.files) > 3 else "")
            raise TextError(
                f"{names}: no sentence for shard {self.index} of {self.count};"
                " a file must have at least as many sentences as there are shards"
            )

    def lines(self, file):
        """Returns the dataset of the shard's lines of a file (a string tensor `[]`).

        Lines without words are not counted: with one between all others, half of the shards would
        be empty. Working on many lines at a time is what makes it fast.
        """

        def without_blank(lines):
            words = tf.strings.strip(drop_byte_order_mark(lines))
            return tf.boolean_mask(lines, tf.strings.length(words) > 0)

        lines = line_dataset(file)
        if self.count == 1:
            return lines
        lines = lines.batch(LINES_AT_A_TIME).map(without_blank).unbatch()
        return lines.shard(self.count, self.index)


@dataclasses.dataclass(frozen=True)
class _Reading:
    """How text becomes the batches of a pass. `shuffle_buffer`: `None` if nothing is shuffled."""

    shard: _Shard
    table: tf.lookup.StaticHashTable
    shuffle_buffer: int | None
    seed: int
    bucketing: Bucketing

    def one_pass(self, pass_index):
        """Returns the dataset of the batches of a pass. `pass_index`: int64 `[]`."""
        shuffles = self.shuffle_buffer is not None
        seeds = seeds_of_pass(self.seed, pass_index, 4)
        names = tf.constant(self.shard.files, tf.string)
        if shuffles:
            names = tf.random.experimental.stateless_shuffle(names, seeds[:2])
        lines = tf.data.Dataset.from_tensor_slices(names).flat_map(self.shard.lines)
        chunks = lines.batch(LINES_AT_A_TIME).map(
            lambda chunk: _rows(chunk, self.table, self.bucketing),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        if shuffles:
            rows = chunks.unbatch().shuffle(
                self.shuffle_buffer, seeds[2], reshuffle_each_iteration=False
            )
            chunks = rows.batch(ROWS_AT_A_TIME)
        batches = self.bucketing.batch(chunks).map(_inputs_and_targets)
        if shuffles:
            batches = batches.shuffle(BATCHES_TO_SHUFFLE, seeds[3], reshuffle_each_iteration=False)
        return batches


def _inputs_and_targets(parts, steps):
    """Returns `(inputs, targets)`, `[B, S]`, of rows `[B, max_length + 1]`."""
    (rows,) = parts
    return rows[:, : steps[0]], rows[:, 1 : steps[0] + 1]


def _rows(lines, table, bucketing):
    """Cuts lines into rows of ids.

    Args:
        lines: strings `[N]`.
        table: lookup table from words to int32 ids.
        bucketing: a `Bucketing`; its last boundary is the largest number of predictions in a row.

    Returns:
        `(rows, cells)`: ids int32 `[R, max_length + 1]`, inputs and targets overlapping by all but
        one, padded with 0; and each row's cell, int64 `[R]`.
    """
    max_length = int(bucketing.boundaries[0][-1])
    words = tf.strings.split(drop_byte_order_mark(lines))
    ids = tf.concat([[0], table.lookup(words.flat_values)], 0)
    counts = words.row_lengths()
    starts = words.row_starts()
    sentence = tf.where(counts > 0)[:, 0]
    predictions = tf.gather(counts, sentence) + 1
    windows = (predictions + max_length - 1) // max_length
    window = tf.ragged.range(windows)  # 0, 1, … within each sentence
    sentence = tf.repeat(sentence, windows)
    first = window.flat_values * max_length - 1  # of the row's first input; -1 is <S>
    predictions = tf.minimum(tf.repeat(predictions, windows) - first - 1, max_length)
    position = first[:, None] + tf.range(max_length + 1, dtype=tf.int64)
    inside = (position >= 0) & (position < tf.gather(counts, sentence)[:, None])
    index = tf.where(inside, tf.gather(starts, sentence)[:, None] + position + 1, 0)
    # Past the end: 0, which is </S> and padding.
    rows = tf.where(position < 0, START, tf.gather(ids, index))
    return rows, bucketing.cells_in_graph([predictions])
