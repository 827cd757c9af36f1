"""Builds the batches of a config: prepared text for training, text files for evaluation."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfmoe import data_pipelines
from tfmoe.config.schema import Config
from tfmoe.data_pipelines import Vocabulary
from tfmoe.tasks.corpora import prepared_directory


def build_batches(
    config: Config,
    files: Sequence[str],
    vocabulary: Vocabulary,
    *,
    training: bool,
    **arguments: Any,
) -> tf.data.Dataset:
    """Builds the batches of text files with the settings of a config.

    Args:
        config: a `Config`.
        files: the files of one part of a `Splits`.
        vocabulary: a `tfmoe.data_pipelines.Vocabulary`.
        training: `True` for endless batches in random order, of text that is prepared in the cache
            if it is not yet; `False` for one pass in order.
        **arguments: `start_batch`, the number of the first batch, in training; `lengths`, as for
            `tfmoe.data_pipelines.language_model_batches`, otherwise.

    Returns:
        Dataset of `(inputs, targets)`, both int32 `[B, S]`.
    """
    if training:
        text = data_pipelines.prepare_text(files, prepared_directory())
        return sentence_training_batches(config, text, vocabulary).dataset(**arguments)
    return data_pipelines.language_model_batches(
        files,
        vocabulary,
        batch_tokens=config.data.batch_tokens,
        max_length=config.data.max_length,
        **arguments,
    )


def sentence_training_batches(
    config: Config, text: data_pipelines.PreparedText, vocabulary: Vocabulary
) -> data_pipelines.TrainingBatches:
    """Builds the training batches of prepared text with the settings of a config."""
    return data_pipelines.sentence_training_batches(
        text,
        vocabulary,
        prepared_directory(),
        batch_tokens=config.data.batch_tokens,
        max_length=config.data.max_length,
        seed=config.training.seed,
    )


def build_parallel_batches(
    config: Config,
    files: Sequence[data_pipelines.ParallelFiles],
    subwords: data_pipelines.Subwords,
    *,
    training: bool,
    **arguments: Any,
) -> tf.data.Dataset:
    """Builds the batches of parallel text with the settings of a config.

    Args:
        config: a `Config` of a translation model.
        files: list of `tfmoe.data_pipelines.ParallelFiles`.
        subwords: a `tfmoe.data_pipelines.Subwords`.
        training: `True` for endless batches in random order, of text that is prepared in the cache
            if it is not yet; `False` for one pass in order.
        **arguments: `start_batch`, the number of the first batch, in training; `lengths`, as for
            `tfmoe.data_pipelines.parallel_batches`, otherwise.

    Returns:
        Dataset of `((source, target), targets)`, int32 `[B, S]`, `[B, T]` and `[B, T]`.
    """
    if training:
        text = data_pipelines.prepare_pairs(files, subwords, prepared_directory())
        return pair_training_batches(config, text, subwords).dataset(**arguments)
    return data_pipelines.parallel_batches(
        files,
        subwords,
        batch_tokens=config.data.batch_tokens,
        tag_language=bool(subwords.languages),
        **arguments,
    )


def pair_training_batches(
    config: Config, text: data_pipelines.PreparedPairs, subwords: data_pipelines.Subwords
) -> data_pipelines.TrainingBatches:
    """Builds the training batches of prepared text with the settings of a config."""
    return data_pipelines.pair_training_batches(
        text,
        subwords,
        prepared_directory(),
        batch_tokens=config.data.batch_tokens,
        max_length=config.data.max_length,
        seed=config.training.seed,
        tag_language=bool(subwords.languages),
    )
