"""Builds the vocabulary of a config from its training text."""

import contextlib
from collections.abc import Mapping, Sequence

from tfmoe import data_pipelines
from tfmoe.config.data_schema import corpus_of
from tfmoe.config.problems import ConfigError, Problem
from tfmoe.config.schema import Config
from tfmoe.data_pipelines.prepared.surveys import prepared_subwords
from tfmoe.data_pipelines.subwords import MAX_SENTENCES
from tfmoe.tasks.corpora import prepared_directory


def build_vocabulary(
    config: Config, counts: Mapping[str, int] | None = None
) -> data_pipelines.Vocabulary:
    """Builds the vocabulary of a config, or loads it from `data.vocabulary.file`.

    Args:
        config: a `Config` of a language model.
        counts: the words of the training text and their counts, `survey(splits.train).words`. Not
            needed with `data.vocabulary.file`.

    Returns:
        `tfmoe.data_pipelines.Vocabulary`.

    Raises:
        ConfigError: if the size of the file differs from `data.vocabulary.size`, or no word has
            `data.vocabulary.min_count` occurrences.
        tfmoe.data_pipelines.TextError: if the file is missing or not a vocabulary.
    """
    settings = config.data.vocabulary
    if settings.file is None:
        with _key_named("min_count"):
            return data_pipelines.Vocabulary.from_counts(
                counts or {}, max_size=settings.size, min_count=settings.min_count
            )
    return _with_size(data_pipelines.Vocabulary.load(settings.file), settings, "words")


def build_subwords(
    config: Config, files: Sequence[data_pipelines.ParallelFiles]
) -> data_pipelines.Subwords:
    """Trains the subword vocabulary of a config, or loads it from `data.vocabulary.file`.

    Args:
        config: a `Config` of a translation model.
        files: the training text, list of `tfmoe.data_pipelines.ParallelFiles`.

    Returns:
        `tfmoe.data_pipelines.Subwords`.

    Raises:
        ConfigError: if size or languages of the file differ from the config's, or the text has too
            many distinct characters for the size.
        tfmoe.data_pipelines.TextError: if the file is missing or not a SentencePiece model.
        ValueError: if training fails for another reason.
    """
    settings, corpus = config.data.vocabulary, corpus_of(config.data)
    if settings.file is None:
        return _train_subwords(config, files)
    subwords = _with_size(data_pipelines.Subwords.load(settings.file), settings, "ids")
    if sorted(subwords.languages) != corpus.target_languages:
        message = (
            f"{settings.file} has symbols for the languages {subwords.languages}, but this config "
            f"translates into {corpus.target_languages}; set it to null to train a new model"
        )
        raise ConfigError([Problem("", "data.vocabulary.file", message)])
    return subwords


def subword_arguments(config: Config) -> dict:
    """All arguments of `Subwords.train` but the sentences, which decide about a config's model."""
    settings = config.data.vocabulary
    return {
        "size": settings.size,
        "languages": corpus_of(config.data).target_languages,
        "character_coverage": settings.character_coverage,
        "max_sentences": MAX_SENTENCES,
        "seed": 0,
    }


def _train_subwords(config, files):
    empty = corpus_of(config.data).empty_sides
    sentences = (
        sentence
        for parallel_files in data_pipelines.without_reversed(files)
        for pair in data_pipelines.sentence_pairs(parallel_files, empty=empty)
        for sentence in pair
    )
    arguments = subword_arguments(config)

    def train():
        return data_pipelines.Subwords.train(sentences, **arguments)

    with _key_named("size"):
        unique = data_pipelines.without_reversed(files)
        return prepared_subwords(unique, prepared_directory(), arguments, train)


@contextlib.contextmanager
def _key_named(name):
    """Turns a `ValueError` that begins with an argument's name into a `ConfigError` of its key."""
    try:
        yield
    except ValueError as error:
        first, _, message = str(error).partition(" ")
        if first != name:
            raise
        raise ConfigError([Problem("", f"data.vocabulary.{name}", message)]) from error


def _with_size(vocabulary, settings, unit):
    """Returns the vocabulary of a file. Raises a ConfigError if its size is not the config's."""
    if settings.size is not None and len(vocabulary) != settings.size:
        message = f"is {settings.size}, but {settings.file} has {len(vocabulary)} {unit}"
        problem = Problem("", "data.vocabulary.size", f"{message}; set it to null")
        raise ConfigError([problem])
    return vocabulary
