"""From a config and its training text to the vocabulary."""

import contextlib

from tfmoe import data_pipelines
from tfmoe.config.data_schema import corpus_of
from tfmoe.config.problems import ConfigError, Problem


def build_vocabulary(config, counts=None):
    """The vocabulary of a config.

    Args:
        config: a `Config` of a language model.
        counts: words of the training text and how often they occur, `survey(splits.train).words`.
            Not needed with `data.vocabulary.file`.

    Returns:
        `tfmoe.data_pipelines.Vocabulary`.

    Raises:
        ConfigError: if the file has another number of words than `data.vocabulary.size` says, or
            `data.vocabulary.min_count` leaves no word.
        tfmoe.data_pipelines.TextError: if the file is missing or is no vocabulary.
    """
    settings = config.data.vocabulary
    if settings.file is None:
        with _key_named("min_count"):
            return data_pipelines.Vocabulary.from_counts(
                counts, max_size=settings.size, min_count=settings.min_count
            )
    return _with_size(data_pipelines.Vocabulary.load(settings.file), settings, "words")


def build_subwords(config, files):
    """The subword vocabulary of a config.

    Args:
        config: a `Config` of a translation model.
        files: the training text, list of `tfmoe.data_pipelines.ParallelFiles`.

    Returns:
        `tfmoe.data_pipelines.Subwords`.

    Raises:
        ConfigError: if the file has another size or other languages than the config.
        tfmoe.data_pipelines.TextError: if the file is missing or is no such model.
        ValueError: if the text has too many characters for the size.
    """
    settings, corpus = config.data.vocabulary, corpus_of(config.data)
    if settings.file is None:
        return _train_subwords(settings, corpus, files)
    subwords = _with_size(data_pipelines.Subwords.load(settings.file), settings, "ids")
    if sorted(subwords.languages) != corpus.target_languages:
        message = (
            f"{settings.file} has symbols for the languages {subwords.languages}, but this config "
            f"translates into {corpus.target_languages}; set it to null to train a new one"
        )
        raise ConfigError([Problem("", "data.vocabulary.file", message)])
    return subwords


def _train_subwords(settings, corpus, files):
    sentences = (
        sentence
        for each in data_pipelines.without_reversed(files)
        for pair in data_pipelines.sentence_pairs(each, empty=corpus.empty_sides)
        for sentence in pair
    )
    with _key_named("size"):
        return data_pipelines.Subwords.train(
            sentences,
            settings.size,
            languages=corpus.target_languages,
            character_coverage=settings.character_coverage,
        )


@contextlib.contextmanager
def _key_named(name):
    """Makes a `ValueError` that begins with an argument's name one of its key."""
    try:
        yield
    except ValueError as error:
        first, _, message = str(error).partition(" ")
        if first != name:
            raise
        raise ConfigError([Problem("", f"data.vocabulary.{name}", message)]) from error


def _with_size(vocabulary, settings, unit):
    """A vocabulary of a file, if it has the size that the config says."""
    if settings.size is not None and len(vocabulary) != settings.size:
        message = f"is {settings.size}, but {settings.file} has {len(vocabulary)} {unit}"
        problem = Problem("", "data.vocabulary.size", f"{message}; set it to null")
        raise ConfigError([problem])
    return vocabulary
