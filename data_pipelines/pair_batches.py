"""Batches of parallel text files for evaluating translation models.

A pair `s1 … sm`, `w1 … wn` is the source `s1 … sm`, the target inputs `<s> w1 … wn` and the targets
`w1 … wn </s>`. A pair with a blank side is skipped. Every pair comes once, however long, in the
order of the files as far as bucketing allows; weights do not count.

Axes: B batch (pairs), S steps of the source, T steps of the target. Ids and padding are those of
`Subwords`.
"""

import itertools
from collections.abc import Sequence

import tensorflow as tf

from tfmoe.data_pipelines.arguments import check_at_least
from tfmoe.data_pipelines.ordered_batches import in_order
from tfmoe.data_pipelines.pair_layout import layout_of
from tfmoe.data_pipelines.parallel_files import ParallelFiles
from tfmoe.data_pipelines.parallel_text import PairLengths, survey_parallel
from tfmoe.data_pipelines.reading import (
    TextError,
    check_file,
    drop_byte_order_mark,
    line_dataset,
)
from tfmoe.data_pipelines.sgm import is_sgm, read_sgm
from tfmoe.data_pipelines.subwords import Subwords
from tfmoe.data_pipelines.vocabulary import START

PAIRS_PER_CALL = 1024  # of the tokenizer


def parallel_batches(
    files_list: ParallelFiles | Sequence[ParallelFiles],
    subwords: Subwords,
    *,
    batch_tokens: int,
    lengths: Sequence[PairLengths] | None = None,
    tag_language: bool = False,
) -> tf.data.Dataset:
    """Reads parallel text once, in order, as padded batches of next-piece prediction, given the
    source.

    Pairs of similar lengths make a batch. Training reads prepared text instead, see
    `pair_training_batches`.

    Args:
        files_list: a `ParallelFiles` or a list of them. Let `survey_parallel` check them first:
            here bytes that are not UTF-8 become unknown pieces.
        subwords: a `Subwords`.
        batch_tokens: largest number of positions in a batch, source and target together, padding
            included. A batch has `B · (S + T) <= batch_tokens`, or one row.
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
    parts = _as_list(files_list)
    tags = [subwords.language_id(part.target_language) if tag_language else 0 for part in parts]
    lengths = pair_lengths(parts, subwords) if lengths is None else lengths
    layout = layout_of(lengths, batch_tokens, None, tag_language)
    tokenizer = subwords.tokenizer()
    rows = (
        _lines_of(parts, tags)
        .batch(PAIRS_PER_CALL)
        .map(lambda *chunk: _rows(chunk, tokenizer, layout), num_parallel_calls=tf.data.AUTOTUNE)
    )
    batches = layout.bucketing.batch(rows, layout.rows_left).map(_sides)
    return in_order(batches, layout.batches)


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
    """Returns how many batches a pass over parallel text has, in training and in evaluation.

    Args:
        lengths: what `pair_lengths` returns.
        batch_tokens: as for `parallel_batches`.
        max_length: largest number of pieces of a side in training; `None` for evaluation, which
            leaves no pair out.
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


def _lines_of(parts, tags):
    """Dataset of `(source line, target line, tag)`, strings and int32 `[]`, of all pairs."""
    datasets = [
        tf.data.Dataset.zip(
            _lines(source),
            _lines(target),
            tf.data.Dataset.from_tensors(tf.constant(tag, tf.int32)).repeat(),
        )
        for part, tag in zip(parts, tags, strict=True)
        for source, target in part.file_pairs
    ]
    dataset = datasets[0]
    for other in datasets[1:]:
        dataset = dataset.concatenate(other)
    return dataset


def _lines(path):
    """Dataset of the lines of a file, strings `[]`, blank ones included."""
    check_file(path)
    if is_sgm(path):
        return tf.data.Dataset.from_tensor_slices(read_sgm(path))
    return line_dataset(path)


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
    """Makes rows of ids of pairs of lines; skips those with a blank side.

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
    kept = tf.reduce_all(counts > 0, 1)
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
