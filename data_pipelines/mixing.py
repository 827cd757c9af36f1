"""Texts that are read at the same time and mixed.

A stream is one pair of files. Streams are read in step with their lengths, so that languages and
corpora are mixed however small the buffer for shuffling is.
"""

import dataclasses
import math

import numpy as np
import tensorflow as tf

from tfmoe.data_pipelines.passes import seeds_of_pass
from tfmoe.data_pipelines.reading import check_file, line_dataset
from tfmoe.data_pipelines.sgm import is_sgm, read_sgm

CHOICES_AT_A_TIME = 4096
BATCHES, CHOICES, STREAMS = 0, 1, 2  # what the seeds of a pass are for: one each, then the streams


@dataclasses.dataclass(frozen=True)
class Stream:
    """A pair of files.

    Args:
        dataset: of `(source line, target line, tag)`, strings and int32 `[]`.
        pairs: number of pairs.
        weight: how often to see them, as a multiple of their natural share.
    """

    dataset: tf.data.Dataset
    pairs: int
    weight: float


def streams_of(files_list, tags, pairs):
    """Opens parallel text.

    Args:
        files_list: list of `ParallelFiles`.
        tags: list of integers, one for each.
        pairs: list of numbers of pairs, one for each pair of files.

    Returns:
        List of `Stream`, one for each pair of files.

    Raises:
        ValueError: if `pairs` has another length than the pairs of files.
        TextError: if a file is missing.
    """
    opened = [
        (source, target, tag, files.weight)
        for files, tag in zip(files_list, tags, strict=True)
        for source, target in files.file_pairs
    ]
    if len(opened) != len(pairs):
        raise ValueError(
            f"lengths must have one Counter for each pair of files, got {len(pairs)} for"
            f" {len(opened)} pairs"
        )
    return [
        Stream(
            tf.data.Dataset.zip(
                _lines(source),
                _lines(target),
                tf.data.Dataset.from_tensors(tf.constant(tag, tf.int32)).repeat(),
            ),
            count,
            weight,
        )
        for (source, target, tag, weight), count in zip(opened, pairs, strict=True)
    ]


def _lines(path):
    """Dataset of the lines of a file, strings `[]`, blank ones included."""
    check_file(path)
    if is_sgm(path):
        return tf.data.Dataset.from_tensor_slices(read_sgm(path))
    return line_dataset(path)


def one_after_the_other(streams):
    """Returns the dataset of all pairs, in order."""
    dataset = streams[0].dataset
    for stream in streams[1:]:
        dataset = dataset.concatenate(stream.dataset)
    return dataset


def shares_of(streams):
    """Each stream's share of the pairs, by pair count and weight: float64 `[streams]`."""
    shares = np.array([stream.pairs * stream.weight for stream in streams], np.float64)
    return shares / shares.sum()


def mixed(streams, draws, seed, pass_index, shuffle_buffer):
    """Shuffles each stream, and draws pairs from all streams by their shares.

    If `draws` is 0 every pair comes once, and the streams end at about the same time. Otherwise
    there is no end: a stream is read again and again, each time shuffled anew, and begins where it
    is expected to have been at the end of the pass before.

    Args:
        streams: list of `Stream`.
        draws: expected number of pairs drawn in a pass; 0 if a pass is every pair once.
        seed: integer.
        pass_index: index of the pass, an int64 tensor `[]`.
        shuffle_buffer: number of pairs held for shuffling, of all streams together.

    Returns:
        Dataset of pairs, as those of the streams.
    """
    shares = shares_of(streams)

    def shuffled(index, reading):
        return streams[index].dataset.shuffle(
            math.ceil(shares[index] * shuffle_buffer),
            seeds_of_pass(seed, reading, STREAMS + len(streams))[STREAMS + index],
            reshuffle_each_iteration=False,
        )

    def repeated(index):
        before = pass_index * round(shares[index] * draws)  # pairs read in the passes before
        readings, begin = before // streams[index].pairs, before % streams[index].pairs
        readings = tf.data.Dataset.counter(readings)
        return readings.flat_map(lambda reading: shuffled(index, reading)).skip(begin)

    if draws:
        datasets = [repeated(index) for index in range(len(streams))]
    else:
        datasets = [shuffled(index, pass_index) for index in range(len(streams))]
    if len(datasets) == 1:
        return datasets[0]
    choices = _choices(shares, seeds_of_pass(seed, pass_index, STREAMS)[CHOICES])
    return tf.data.Dataset.choose_from_datasets(datasets, choices, stop_on_empty_dataset=False)


def _choices(shares, seed):
    """Endless dataset of indices of streams, drawn by their shares."""

    def drawn(chunk):
        indices = tf.random.stateless_categorical(
            np.log(shares)[None].astype(np.float32), CHOICES_AT_A_TIME, [seed, chunk], tf.int64
        )
        return tf.data.Dataset.from_tensor_slices(indices[0])

    return tf.data.Dataset.counter().flat_map(drawn)
