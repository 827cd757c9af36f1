"""Batches for training and evaluating translation models: pairs of sentences.

Axes: B batch (pairs), S steps of the source, T steps of the target. Ids and padding are those of
`Subwords`.
"""

import collections
import dataclasses
import itertools
import math
import os

import numpy as np
import tensorflow as tf

from data_pipelines.batching import bucket_boundaries, check_at_least
from data_pipelines.parallel import ParallelFiles, is_sgm, read_sgm, survey_parallel
from data_pipelines.text import TextError, drop_byte_order_mark
from data_pipelines.vocabulary import START

PAIRS_AT_A_TIME = 1024
CHOICES_AT_A_TIME = 4096
BATCHES_TO_SHUFFLE = 256
DRAWN_BEFORE_FLUSH = 0.95


def parallel_batches(
    files_list,
    subwords,
    *,
    batch_words,
    max_length,
    shuffle=True,
    shuffle_buffer=100_000,
    seed=0,
    passes=None,
    start_batch=0,
    lengths=None,
    tag_language=False,
):
    """Reads parallel text as padded batches of next-piece prediction, given the source.

    A pair `s1 … sm`, `w1 … wn` is the source `s1 … sm`, the target inputs `<s> w1 … wn` and the
    targets `w1 … wn </s>`. Pairs of similar lengths make a batch. A pair with a blank side is left
    out.

    Training (`shuffle`): pairs with more than `max_length` pieces on either side are left out
    (`survey_parallel` counts them). All files are read at the same time, in step with their
    lengths, so that languages and corpora are mixed. If all weights are equal, a pass is every pair
    once. Otherwise a pass is as many batches, drawn from all languages: language p's share of the
    pairs is `w_p·N_p / Σ w·N`. The next pass goes on in each file about where this one ended.

    Evaluation (`shuffle=False`): every pair once in a pass, however long, and weights do not count.
    The pairs come in the order of the files, as far as bucketing allows.

    The batches depend on the arguments alone. Pass p is shuffled by a seed made of `seed` and p, so
    that a run which begins at `start_batch` goes on as an uninterrupted one.

    Args:
        files_list: a `ParallelFiles` or a list of them. Let `survey_parallel` check them first:
            here bytes that are not UTF-8 become unknown pieces.
        subwords: a `Subwords`.
        batch_words: largest number of positions in a batch, source and target together, padding
            included. A batch has `B · (S + T) <= batch_words`, or one row.
        max_length: largest number of pieces of a side in training, without tag, start and end.
            `None`: no limit. Without a meaning if `shuffle` is false.
        shuffle: whether to shuffle, as training wants it.
        shuffle_buffer: number of pairs held for shuffling, as text, of all files together.
        seed: integer.
        passes: how often the text is read. `None`: without end.
        start_batch: number of batches to leave out at the beginning. Whole passes are not read
            again.
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
    check_at_least(1, batch_words=batch_words)
    check_at_least(0, start_batch=start_batch)
    if max_length is not None:
        check_at_least(1, max_length=max_length)
    if shuffle:
        check_at_least(1, shuffle_buffer=shuffle_buffer)
    if passes is not None:
        check_at_least(1, passes=passes)
    files_list = _as_list(files_list)
    tags = [0] * len(files_list)
    if tag_language:
        tags = [subwords.language_id(files.target_language) for files in files_list]
    if lengths is None:
        lengths = pair_lengths(files_list, subwords)
    max_length = max_length if shuffle else None
    layout = _layout(lengths, batch_words, max_length, tag_language)
    in_a_pass = layout.batches
    start_pass, start_batch = divmod(start_batch, in_a_pass)
    streams = _streams(files_list, tags, lengths)
    tokenizer = subwords.tokenizer()
    draws, flush_every, chunk_size = 0, 0, PAIRS_AT_A_TIME
    if shuffle and len({files.weight for files in files_list}) > 1:
        # No row is left at the end of a pass: rare lengths would never fill a batch. What is made
        # of the draws is a little less than a pass, for `take` not to cut these rows off again.
        draws = _draws_per_pass(streams, lengths, layout, tag_language)
        flush_every = math.ceil(DRAWN_BEFORE_FLUSH * draws / PAIRS_AT_A_TIME)
        chunk_size = math.ceil(DRAWN_BEFORE_FLUSH * draws / flush_every)

    @tf.autograph.experimental.do_not_convert
    def one_pass(number):
        tf.random.set_seed(1)  # of this function alone: the process's global seed has no say
        if shuffle:
            pairs = _mixed(streams, draws, seed, number, shuffle_buffer)
        else:
            pairs = _one_after_the_other(streams)
        chunks = pairs.batch(chunk_size).map(
            lambda *chunk: _rows(chunk, tokenizer, layout, tag_language),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        batches = _bucket(chunks, layout, batch_words, flush_every)
        if draws:
            batches = batches.take(in_a_pass)
        if shuffle:
            batches = batches.shuffle(
                BATCHES_TO_SHUFFLE, _seeds(seed, number)[0], reshuffle_each_iteration=False
            )
        return batches

    numbers = tf.data.Dataset.counter(start_pass)
    size = tf.data.INFINITE_CARDINALITY
    if passes is not None:
        numbers = numbers.take(max(0, passes - start_pass))
        size = max(0, (passes - start_pass) * in_a_pass - start_batch)
    batches = numbers.flat_map(one_pass).skip(start_batch)
    batches = batches.apply(tf.data.experimental.assert_cardinality(size))
    options = tf.data.Options()
    options.deterministic = True
    return batches.with_options(options).prefetch(tf.data.AUTOTUNE)


def pair_lengths(files_list, subwords):
    """Reads parallel text once and counts the lengths of its pairs. Pairs with a blank side are
    left out. Memory does not grow with the text.

    Args:
        files_list: a `ParallelFiles` or a list of them.
        subwords: a `Subwords`.

    Returns:
        For each pair of files of the list, in order, a `Counter` from `(source pieces, target
        pieces)` to number of pairs.

    Raises:
        TextError: as `survey_parallel` with `empty="skip"`.
    """
    return list(
        itertools.chain.from_iterable(
            survey_parallel(files, subwords, empty="skip").lengths for files in _as_list(files_list)
        )
    )


def parallel_batches_per_pass(lengths, *, batch_words, max_length, tag_language=False):
    """Returns how many batches `parallel_batches` makes of the files in one pass.

    Args:
        lengths: what `pair_lengths` returns.
        batch_words: as for `parallel_batches`.
        max_length: as for `parallel_batches`; `None` for evaluation, which leaves no pair out.
        tag_language: as for `parallel_batches`.

    Raises:
        TextError: if no pair is as short as `max_length`.
    """
    return _layout(lengths, batch_words, max_length, tag_language).batches


def _as_list(files_list):
    files_list = [files_list] if isinstance(files_list, ParallelFiles) else list(files_list)
    if not any(files.source for files in files_list):
        raise TextError("no parallel text was named: give at least one pair of files")
    return files_list


@dataclasses.dataclass(frozen=True)
class _Layout:
    """How the pairs of one pass become batches.

    A pair falls into a cell by the bucket of its source and that of its target. Cells are numbered
    by rising length. When a cell has enough rows they are a batch. At the end of a pass, the rows
    left in all cells, in the order of the cells, are cut into batches too. Their number in each
    cell, and so the number of batches, is known from the lengths.

    Args:
        max_length: longest side in pieces, without tag, start and end.
        source_steps, target_steps: lists of bucket boundaries.
        cells: int64 `[source buckets, target buckets]`, number of the cell.
        steps: int64 `[cells, 2]`, S and T by cell.
        sizes: int64 `[cells]`, rows of a full batch.
        widest: int64 `[cells, cells, 2]`, largest S and T of the cells from one to another.
        rows_left: rows left in the cells at the end of a pass.
        batches: batches in a pass.
    """

    max_length: int
    source_steps: list[int]
    target_steps: list[int]
    cells: np.ndarray
    steps: np.ndarray
    sizes: np.ndarray
    widest: np.ndarray
    rows_left: int
    batches: int


def _layout(lengths, batch_words, max_length, tag_language):
    """Returns the `_Layout` of texts with these lengths. Raises `TextError` if no pair is left."""
    tag = int(tag_language)
    kept = collections.Counter()
    for counter in lengths:
        for (source, target), count in counter.items():
            if source and target and (max_length is None or max(source, target) <= max_length):
                kept[source + tag, target + 1] += count
    if not kept:
        limit = "" if max_length is None else f" with at most {max_length} pieces on each side"
        raise TextError(f"there is no pair of sentences{limit} to make a batch of")
    longest = [max(pair[side] for pair in kept) for side in range(2)]
    source_steps, target_steps = map(bucket_boundaries, longest)
    steps = sorted(
        itertools.product(source_steps, target_steps),
        key=lambda pair: (max(pair), sum(pair), pair),
    )
    sizes = [max(1, batch_words // sum(pair)) for pair in steps]
    number = {pair: cell for cell, pair in enumerate(steps)}
    cells = [[number[source, target] for target in target_steps] for source in source_steps]
    places = np.searchsorted(source_steps, [pair[0] for pair in kept])
    counts = np.zeros(len(steps), np.int64)
    others = np.searchsorted(target_steps, [pair[1] for pair in kept])
    np.add.at(counts, np.array(cells)[places, others], list(kept.values()))
    full, left = np.divmod(counts, sizes)
    return _Layout(
        max_length=max(longest[0] - tag, longest[1] - 1),
        source_steps=source_steps,
        target_steps=target_steps,
        cells=np.array(cells, np.int64),
        steps=np.array(steps, np.int64),
        sizes=np.array(sizes, np.int64),
        widest=_widest(np.array(steps, np.int64)),
        rows_left=int(left.sum()),
        batches=int(full.sum()) + _batches_of_rows_left(steps, left.tolist(), batch_words),
    )


def _widest(steps):
    """Largest S and T of the cells i to j, `[cells, cells, 2]`, from `[cells, 2]`."""
    later = np.tri(len(steps), dtype=bool).T[..., None]
    return np.maximum.accumulate(np.where(later, steps[None], 0), axis=1)


def _batches_of_rows_left(steps, left, batch_words):
    """Returns how many batches `_cut_rows_left` makes.

    Args:
        steps: list of `(S, T)` by cell.
        left: list of numbers of rows by cell.
        batch_words: largest number of positions of a batch of more than one row.
    """
    batches, rows, size = 0, 0, (0, 0)
    for pair, count in zip(steps, left, strict=True):
        size = tuple(map(max, size, pair)) if rows else pair
        while count:
            more = min(count, batch_words // sum(size) - rows)
            if more <= 0 and rows:  # the batch is full
                batches, rows, size = batches + 1, 0, pair
            else:
                more = max(more, 1)
                rows, count = rows + more, count - more
    return batches + (rows > 0)


def _cut_rows_left(cells, layout, batch_words):
    """Cuts rows into batches, in their order, each as large as it may be.

    Args:
        cells: int64 `[rows]`, number of each row's cell, rising.
        layout: a `_Layout`.
        batch_words: largest number of positions of a batch of more than one row.

    Returns:
        int64 `[batches, 4]`: begin, end, S and T.
    """
    rows = tf.size(cells, tf.int64)

    def one_batch(begin, cuts):
        widest = tf.gather(tf.constant(layout.widest)[cells[begin]], cells[begin:])
        counts = tf.range(1, rows - begin + 1)
        fits = counts * tf.reduce_sum(widest, 1) <= batch_words  # true, then false
        count = tf.maximum(tf.math.count_nonzero(fits), tf.constant(1, tf.int64))
        cut = tf.concat([[begin, begin + count], widest[count - 1]], 0)
        return begin + count, tf.concat([cuts, cut[None]], 0)

    return tf.while_loop(
        lambda begin, cuts: begin < rows,
        one_batch,
        (tf.constant(0, tf.int64), tf.zeros([0, 4], tf.int64)),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, 4])),
    )[1]


@dataclasses.dataclass(frozen=True)
class _Stream:
    """A pair of files: dataset of `(source line, target line, tag)`, number of pairs, weight."""

    dataset: tf.data.Dataset
    pairs: int
    weight: float


def _streams(files_list, tags, lengths):
    pairs = [
        (source, target, tag, files.weight)
        for files, tag in zip(files_list, tags, strict=True)
        for source, target in files.file_pairs
    ]
    if len(pairs) != len(lengths):
        raise ValueError(
            f"lengths must have one Counter for each pair of files; it has {len(lengths)} for"
            f" {len(pairs)} pairs"
        )
    return [
        _Stream(
            tf.data.Dataset.zip(
                _lines(source),
                _lines(target),
                tf.data.Dataset.from_tensors(tf.constant(tag, tf.int32)).repeat(),
            ),
            counter.total(),
            weight,
        )
        for (source, target, tag, weight), counter in zip(pairs, lengths, strict=True)
    ]


def _lines(path):
    """Dataset of the lines of a file, strings `[]`, blank ones included."""
    if not os.path.isfile(path):
        raise TextError(f"{path}: no such file")
    if is_sgm(path):
        return tf.data.Dataset.from_tensor_slices(read_sgm(path))
    return tf.data.TextLineDataset(path, "GZIP" if path.endswith(".gz") else "")


def _one_after_the_other(streams):
    dataset = streams[0].dataset
    for stream in streams[1:]:
        dataset = dataset.concatenate(stream.dataset)
    return dataset


def _shares(streams):
    """Each stream's share of the pairs, by number and weight: float64 `[streams]`."""
    shares = np.array([stream.pairs * stream.weight for stream in streams], np.float64)
    return shares / shares.sum()


def _draws_per_pass(streams, lengths, layout, tag_language):
    """Returns how many pairs, drawn by the shares, fill as many batches as a pass has."""
    batches = np.zeros(len(streams))
    for index, counter in enumerate(lengths):
        pairs = [pair for pair in counter if min(pair) and max(pair) <= layout.max_length]
        sources, targets = np.array(pairs, np.int64).reshape(-1, 2).T
        cells = layout.cells[
            np.searchsorted(layout.source_steps, sources + int(tag_language)),
            np.searchsorted(layout.target_steps, targets + 1),
        ]
        batches[index] = np.sum([counter[pair] for pair in pairs] / layout.sizes[cells])
    of_a_draw = np.sum(_shares(streams) * batches / [stream.pairs for stream in streams])
    return max(1, round(layout.batches / of_a_draw))


def _mixed(streams, draws, seed, number, shuffle_buffer):
    """Shuffles each stream, and draws from all of them, from each by its share.

    If `draws` is 0 every pair comes once, and the streams end at about the same time. Otherwise
    there is no end: a stream is read again and again, each time shuffled anew, and begins where it
    is expected to have been at the end of the pass before.

    Args:
        streams: list of `_Stream`.
        draws: expected number of pairs drawn in a pass; 0 if a pass is every pair once.
        seed: integer.
        number: of the pass, an int64 tensor `[]`.
        shuffle_buffer: number of pairs held for shuffling, of all streams together.
    """
    shares = _shares(streams)

    def shuffled(index, reading):
        return streams[index].dataset.shuffle(
            math.ceil(shares[index] * shuffle_buffer),
            _seeds(seed, reading, 2 + len(streams))[2 + index],
            reshuffle_each_iteration=False,
        )

    def repeated(index):
        before = number * round(shares[index] * draws)  # pairs read in the passes before
        readings, begin = before // streams[index].pairs, before % streams[index].pairs
        readings = tf.data.Dataset.counter(readings)
        return readings.flat_map(lambda reading: shuffled(index, reading)).skip(begin)

    def choices(chunk):
        drawn = tf.random.stateless_categorical(
            np.log(shares)[None].astype(np.float32),
            CHOICES_AT_A_TIME,
            [_seeds(seed, number)[1], chunk],
            tf.int64,
        )
        return tf.data.Dataset.from_tensor_slices(drawn[0])

    if draws:
        datasets = [repeated(index) for index in range(len(streams))]
    else:
        datasets = [shuffled(index, number) for index in range(len(streams))]
    if len(datasets) == 1:
        return datasets[0]
    return tf.data.Dataset.choose_from_datasets(
        datasets, tf.data.Dataset.counter().flat_map(choices), stop_on_empty_dataset=False
    )


def _seeds(seed, number, count=2):
    """Seeds of a pass, int64 `[count]`: 0 for batches, 1 for choices, others for streams."""
    return tf.random.stateless_uniform([count], [seed, number], 0, 2**31 - 1, tf.int64)


def _sentences(lines):
    """Makes sentences of lines, as `parallel.sentence_pairs` does. Strings of any shape."""
    lines = drop_byte_order_mark(tf.strings.regex_replace(lines, r"\r", ""))
    return tf.strings.strip(tf.strings.regex_replace(lines, r"[ \t\v\f]+", " "))


def _rows(chunk, tokenizer, layout, tag_language):
    """Makes rows of ids of pairs of lines; those too long or blank are left out.

    Args:
        chunk: `(sources, targets, tags)`, strings, strings and int32, all `[N]`.
        tokenizer: `Subwords.tokenizer()`.
        layout: a `_Layout`.
        tag_language: whether to put the tag before the source.

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
    if tag_language:
        sources = tf.concat([tf.boolean_mask(tags, kept)[:, None], sources], 1)
    targets = tf.concat([tf.fill([tf.size(targets.row_lengths()), 1], START), targets], 1)
    steps = (layout.source_steps, layout.target_steps)
    places = [
        tf.searchsorted(tf.constant(side, tf.int64), ids.row_lengths(), out_type=tf.int64)
        for side, ids in zip(steps, (sources, targets), strict=True)
    ]
    cells = tf.gather_nd(layout.cells, tf.stack(places, 1))
    return (
        sources.to_tensor(shape=[None, steps[0][-1]]),
        targets.to_tensor(shape=[None, steps[1][-1] + 1]),
        cells,
    )


def _bucket(chunks, layout, batch_words, flush_every):
    """Groups rows into batches of one cell each, and those left at the end into batches of
    neighbouring cells. See `batching._bucket`.

    Args:
        chunks: dataset of `(sources, targets, cells)`, as `_rows` returns them.
        layout: a `_Layout`.
        batch_words: largest number of positions of a batch of more than one row.
        flush_every: number of chunks after which no row is left waiting, for chunks without end.
            0: at the end only.

    Returns:
        Dataset of `((source, target_inputs), targets)`.
    """
    sizes = tf.constant(layout.sizes)
    nothing = (
        tf.zeros([0, layout.source_steps[-1]], tf.int32),
        tf.zeros([0, layout.target_steps[-1] + 1], tf.int32),
        tf.zeros([0], tf.int64),
    )

    def fill(waiting, chunk):
        *chunk, last = chunk
        rows = [tf.concat(parts, 0) for parts in zip(waiting, chunk, strict=True)]
        order = tf.argsort(rows[2], stable=True)
        sources, targets, cells = (tf.gather(part, order) for part in rows)
        counts = tf.math.bincount(
            cells, minlength=len(layout.sizes), maxlength=len(layout.sizes), dtype=tf.int64
        )
        begins = tf.cumsum(counts, exclusive=True)
        batches = counts // sizes
        cell = tf.repeat(tf.range(len(layout.sizes), dtype=tf.int64), batches)
        begin = tf.gather(begins, cell) + tf.ragged.range(batches).flat_values * tf.gather(
            sizes, cell
        )
        cuts = tf.concat(
            [tf.stack([begin, begin + tf.gather(sizes, cell)], 1), tf.gather(layout.steps, cell)], 1
        )
        rest = tf.range(tf.size(cells, tf.int64)) >= tf.gather(begins + batches * sizes, cells)
        waiting = tuple(tf.boolean_mask(part, rest) for part in (sources, targets, cells))
        return tf.cond(
            last,
            lambda: (nothing, rows_left_too((sources, targets, cuts), waiting)),
            lambda: (waiting, (sources, targets, cuts)),
        )

    def rows_left_too(found, waiting):
        if not flush_every:
            tf.debugging.Assert(
                tf.size(waiting[2]) == layout.rows_left,
                ["`lengths` are not those of these files and subwords: read them anew"],
            )
        begin = tf.size(found[0][:, 0], tf.int64)
        cuts = _cut_rows_left(waiting[2], layout, batch_words)[::-1]  # the rare long ones first
        cuts += tf.stack([begin, begin, 0, 0])
        return tuple(tf.concat(parts, 0) for parts in zip(found, (*waiting[:2], cuts), strict=True))

    def cut(sources, targets, cuts):
        def batch(cut):
            begin, end, source_steps, target_steps = tf.unstack(cut)
            return (
                (sources[begin:end, :source_steps], targets[begin:end, :target_steps]),
                targets[begin:end, 1 : target_steps + 1],
            )

        return tf.data.Dataset.from_tensor_slices(cuts).map(batch)

    if flush_every:
        chunks = chunks.enumerate(1).map(lambda i, chunk: (*chunk, i % flush_every == 0))
    else:
        chunks = chunks.map(lambda *chunk: (*chunk, False))
        chunks = chunks.concatenate(tf.data.Dataset.from_tensors((*nothing, True)))
    return chunks.scan(nothing, fill).flat_map(cut)
