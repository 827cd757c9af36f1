"""Batches of text files for evaluating language models, and what they share with training.

A sentence `w1 … wn` is the inputs `<S> w1 … wn` and the targets `w1 … wn </S>`. If these are more
than `max_length` predictions, they are cut into rows that continue each other: every word, and
every end of sentence, is predicted exactly once, in training and in evaluation.

Axes: B batch (rows), S steps (positions of a row). Ids and padding are those of `Vocabulary`.
"""

import collections

import tensorflow as tf

from tfmoe.data_pipelines.arguments import check_at_least
from tfmoe.data_pipelines.bucketing import Bucketing, bucket_boundaries
from tfmoe.data_pipelines.ordered_batches import in_order
from tfmoe.data_pipelines.reading import drop_byte_order_mark, line_dataset
from tfmoe.data_pipelines.text import Paths, find_files
from tfmoe.data_pipelines.vocabulary import START, Vocabulary

LINES_AT_A_TIME = 1024


def language_model_batches(
    files: Paths,
    vocabulary: Vocabulary,
    *,
    batch_tokens: int,
    max_length: int,
    lengths: collections.Counter[int] | None = None,
) -> tf.data.Dataset:
    """Reads text files once, in order, as padded batches of next-word prediction.

    Rows of similar length make a batch; the last batches may have fewer rows, and nothing is
    dropped. Training reads prepared text instead, see `sentence_training_batches`.

    Args:
        files: a path or glob or a list of them. Let `survey` check the text first: here bytes that
            are not UTF-8 become unknown words.
        vocabulary: a `Vocabulary`.
        batch_tokens: number of positions in a batch, padding included. A batch of S steps has
            `max(1, batch_tokens // S)` rows.
        max_length: largest S.
        lengths: `Counter` of sentence lengths in words, `survey(files).lengths`, which gives the
            dataset its cardinality; or `None`.

    Returns:
        Dataset of `(inputs, targets)`, both int32 `[B, S]`, padded with 0; the mask is `inputs !=
        0`.

    Raises:
        ValueError: if an argument is out of its range.
        TextError: if a file is missing.
        tf.errors.FailedPreconditionError: while reading, if `lengths` are not those of the files.
    """
    sizes = {"batch_tokens": batch_tokens, "max_length": max_length}
    check_at_least(1, **sizes)
    table, bucketing = vocabulary.lookup_table(), bucketing_of(**sizes)
    lines = tf.data.Dataset.from_tensor_slices(find_files(files)).flat_map(line_dataset)
    chunks = lines.batch(LINES_AT_A_TIME).map(
        lambda chunk: _rows(chunk, table, bucketing), num_parallel_calls=tf.data.AUTOTUNE
    )
    batches = bucketing.batch(chunks).map(_inputs_and_targets)
    return in_order(batches, None if lengths is None else batches_per_pass(lengths, **sizes))


def batches_per_pass(
    lengths: collections.Counter[int], *, batch_tokens: int, max_length: int
) -> int:
    """Returns how many batches a pass over text has, in training and in evaluation.

    Args:
        lengths: `Counter` of sentence lengths in words: `survey(files).lengths`.
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
    bucketing = bucketing_of(batch_tokens, max_length)
    return bucketing.count_batches(bucketing.count_rows(rows))


def bucketing_of(batch_tokens, max_length):
    """The `Bucketing` of the rows of a language model."""
    return Bucketing([bucket_boundaries(max_length)], batch_tokens, remainder="separate")


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
