"""Batches for training and evaluating language models.

Axes: B batch (sentences), S steps (positions of a sentence). Ids and padding are those of
`Vocabulary`.
"""

import collections
import itertools

import tensorflow as tf

from data_pipelines.text import TextError, drop_byte_order_mark, find_files, raw_lines, sentences
from data_pipelines.vocabulary import START

LINES_AT_A_TIME = 1024
ROWS_AT_A_TIME = 4096
BATCHES_TO_SHUFFLE = 32
SMALLEST_BUCKET = 8
BUCKET_GROWTH = 1.25


def bucket_boundaries(max_length):
    """Returns the numbers of steps that batches can have, rising geometrically to `max_length`.

    With steps of a factor of 1.25 about a tenth of the positions is padding.

    Args:
        max_length: largest number of predictions in a row, at least 1.
    """
    boundaries, size = [], min(SMALLEST_BUCKET, max_length)
    while size < max_length:
        boundaries.append(size)
        size = int(size * BUCKET_GROWTH) + 1
    return [*boundaries, max_length]


def language_model_batches(
    files,
    vocabulary,
    *,
    batch_tokens,
    max_length,
    shuffle=True,
    shuffle_buffer=100_000,
    seed=0,
    passes=None,
    start_batch=0,
    lengths=None,
    shard_index=0,
    shard_count=1,
):
    """Reads text files as padded batches of next-word prediction.

    A sentence `w1 … wn` is the inputs `<S> w1 … wn` and the targets `w1 … wn </S>`. If these are
    more than `max_length` predictions, they are cut into rows that continue each other: every word,
    and every end of sentence, is predicted exactly once, in training and in evaluation. Rows of
    similar length make a batch; the last batches of a pass may have fewer rows, and nothing is
    dropped.

    The batches depend on the arguments alone. Pass p is shuffled by a seed made of `seed` and p, so
    that a run which begins at `start_batch` goes on as an uninterrupted one.

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
        passes: how often the files are read. `None`: without end.
        start_batch: number of batches to leave out at the beginning. Whole passes are not read
            again.
        lengths: `Counter` of sentence lengths in words in this shard, to find the pass of
            `start_batch`, and to give the dataset its cardinality; for a single shard
            `survey(files).lengths`. `None`: the files are read for it when needed.
        shard_index: which part to read, from 0.
        shard_count: number of parts. Every sentence is in exactly one, which is the same in all
            passes.

    Returns:
        Dataset of `(inputs, targets)`, both int32 `[B, S]`, padded with 0; the mask is `inputs !=
        0`.

    Raises:
        ValueError: if an argument is out of its range.
        TextError: if a file is missing, or if there is no sentence in the files or in the shard.
    """
    check_at_least(1, batch_tokens=batch_tokens, max_length=max_length, shard_count=shard_count)
    check_at_least(0, start_batch=start_batch, shard_index=shard_index)
    if shuffle:
        check_at_least(1, shuffle_buffer=shuffle_buffer)
    if passes is not None:
        check_at_least(1, passes=passes)
    if shard_index >= shard_count:
        raise ValueError(
            f"shard_index must be less than shard_count = {shard_count}; it is {shard_index}"
        )
    files = find_files(files)
    _check_not_empty(files, shard_index, shard_count)
    start_pass = 0
    if start_batch and lengths is None:
        lengths = sentence_lengths(files, shard_index, shard_count)
    if lengths is not None:
        in_a_pass = batches_per_pass(lengths, batch_tokens=batch_tokens, max_length=max_length)
        start_pass, start_batch = divmod(start_batch, in_a_pass)
    table = vocabulary.lookup_table()
    boundaries = bucket_boundaries(max_length)

    def one_pass(number):
        tf.random.set_seed(1)  # of this function alone: the process's global seed has no say
        seeds = tf.random.stateless_uniform([4], [seed, number], 0, 2**31 - 1, tf.int64)
        names = tf.constant(files, tf.string)
        if shuffle:
            names = tf.random.experimental.stateless_shuffle(names, seeds[:2])
        lines = tf.data.Dataset.from_tensor_slices(names).flat_map(
            lambda file: _shard_of_file(file, shard_index, shard_count)
        )
        chunks = lines.batch(LINES_AT_A_TIME).map(
            lambda chunk: _rows(chunk, table, boundaries), num_parallel_calls=tf.data.AUTOTUNE
        )
        if shuffle:
            rows = chunks.unbatch().shuffle(
                shuffle_buffer, seeds[2], reshuffle_each_iteration=False
            )
            chunks = rows.batch(ROWS_AT_A_TIME)
        batches = _bucket(chunks, boundaries, batch_tokens)
        if shuffle:
            batches = batches.shuffle(BATCHES_TO_SHUFFLE, seeds[3], reshuffle_each_iteration=False)
        return batches

    numbers = tf.data.Dataset.counter(start_pass)
    if passes is not None:
        numbers = numbers.take(max(0, passes - start_pass))
    batches = numbers.flat_map(one_pass).skip(start_batch)
    if lengths is not None:
        size = tf.data.INFINITE_CARDINALITY
        if passes is not None:
            size = max(0, (passes - start_pass) * in_a_pass - start_batch)
        batches = batches.apply(tf.data.experimental.assert_cardinality(size))
    options = tf.data.Options()
    options.deterministic = True
    return batches.with_options(options).prefetch(tf.data.AUTOTUNE)


def _shard_of_file(file, shard_index, shard_count):
    """Returns the lines of a file (a string tensor `[]`) which belong to a shard.

    Lines without words are not counted: with one between all others, half of the shards would be
    empty. Working on many lines at a time is what makes it fast.
    """

    def without_blank(lines):
        lines = drop_byte_order_mark(lines)
        return tf.boolean_mask(lines, tf.strings.length(tf.strings.strip(lines)) > 0)

    lines = raw_lines(file)
    if shard_count == 1:
        return lines
    lines = lines.batch(LINES_AT_A_TIME).map(without_blank).unbatch()
    return lines.shard(shard_count, shard_index)


def _rows(lines, table, boundaries):
    """Cuts lines into rows of ids.

    Args:
        lines: strings `[N]`.
        table: lookup table from words to int32 ids.
        boundaries: list of bucket boundaries; the last is the largest number of predictions in a
            row.

    Returns:
        `(rows, buckets)`: ids int32 `[R, max_length + 1]`, inputs and targets overlapping by all
        but one, padded with 0; and the index of each row's bucket, int64 `[R]`.
    """
    max_length = boundaries[-1]
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
    rows = tf.where(
        position < 0, START, tf.gather(ids, index)
    )  # past the end: 0, which is </S> and padding
    return rows, tf.searchsorted(tf.constant(boundaries, tf.int64), predictions, out_type=tf.int64)


def _bucket(chunks, boundaries, batch_tokens):
    """Groups rows into batches of one bucket each.

    `group_by_window` would call functions for every row, which takes ten times as long as all else
    together. Here a scan over chunks of rows keeps the rows that do not yet fill a batch.

    Args:
        chunks: dataset of `(rows, buckets)`, int32 `[R, max_length + 1]` and int64 `[R]`.
        boundaries: list of bucket boundaries, by bucket.
        batch_tokens: positions in a batch.

    Returns:
        Dataset of `(inputs, targets)`.
    """
    steps = tf.constant(boundaries, tf.int64)
    sizes = tf.constant([max(1, batch_tokens // size) for size in boundaries], tf.int64)
    nothing = (tf.zeros([0, boundaries[-1] + 1], tf.int32), tf.zeros([0], tf.int64))

    def fill(waiting, chunk):
        rows, buckets, last = chunk
        rows = tf.concat([waiting[0], rows], 0)
        buckets = tf.concat([waiting[1], buckets], 0)
        order = tf.argsort(buckets, stable=True)
        rows, buckets = tf.gather(rows, order), tf.gather(buckets, order)
        counts = tf.math.bincount(
            buckets, minlength=len(boundaries), maxlength=len(boundaries), dtype=tf.int64
        )
        begins = tf.cumsum(counts, exclusive=True)
        batches = tf.where(last, -(-counts // sizes), counts // sizes)
        used = tf.minimum(batches * sizes, counts)
        bucket = tf.repeat(tf.range(len(boundaries), dtype=tf.int64), batches)
        begin = tf.gather(begins, bucket) + tf.ragged.range(batches).flat_values * tf.gather(
            sizes, bucket
        )
        end = tf.minimum(begin + tf.gather(sizes, bucket), tf.gather(begins + counts, bucket))
        rest = tf.range(tf.size(buckets, tf.int64)) >= tf.gather(begins + used, buckets)
        waiting = (tf.boolean_mask(rows, rest), tf.boolean_mask(buckets, rest))
        return waiting, (rows, begin, end, tf.gather(steps, bucket))

    def cut(rows, begins, ends, lengths):
        return tf.data.Dataset.from_tensor_slices((begins, ends, lengths)).map(
            lambda begin, end, length: (rows[begin:end, :length], rows[begin:end, 1 : length + 1])
        )

    chunks = chunks.map(lambda rows, buckets: (rows, buckets, False))
    end = tf.data.Dataset.from_tensors((*nothing, True))
    return chunks.concatenate(end).scan(nothing, fill).flat_map(cut)


def sentence_lengths(files, shard_index=0, shard_count=1):
    """Counts the sentence lengths of one shard, as `language_model_batches` divides the files.

    Args:
        files: a path or glob or a list of them.
        shard_index: which part, from 0.
        shard_count: number of parts: sentence i of a file, from 0, is in part `i % shard_count`.

    Returns:
        `Counter` from words in a sentence to number of sentences.
    """
    files = find_files(files)
    return collections.Counter(len(words) for words in _shard(files, shard_index, shard_count))


def batches_per_pass(lengths, *, batch_tokens, max_length):
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
    boundaries = bucket_boundaries(max_length)
    rows = collections.Counter()
    for words, count in lengths.items():
        full, rest = divmod(words + 1, max_length)
        rows[max_length] += full * count
        if rest:
            rows[next(size for size in boundaries if size >= rest)] += count
    return sum(-(-count // max(1, batch_tokens // size)) for size, count in rows.items())


def _shard(files, shard_index, shard_count):
    """Yields the sentences of one shard, as lists of words (bytes)."""
    for file in files:
        for _, words in itertools.islice(sentences(file), shard_index, None, shard_count):
            yield words


def _check_not_empty(files, shard_index, shard_count):
    """An endless dataset of an empty shard would hang."""
    if next(_shard(files, shard_index, shard_count), None) is None:
        names = ", ".join(files[:3]) + (" …" if len(files) > 3 else "")
        raise TextError(
            f"{names}: no sentence for shard {shard_index} of {shard_count};"
            " a file must have at least as many sentences as there are shards"
        )


def check_at_least(least, **arguments):
    for name, value in arguments.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}; it is {value}")
