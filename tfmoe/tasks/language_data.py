"""From a config to the text, the vocabulary and the batches of a language model."""

import data_pipelines
from tfmoe.config.problems import ConfigError, Problem

# Keys that all data for language models share.
LANGUAGE_DATA = ("vocabulary", "batch_tokens", "max_length", "shuffle_buffer")


def build_splits(config, directory):
    """The text of a config: found, or written where it is generated.

    Args:
        config: a `Config`.
        directory: where the embedded text or the grammars are written, and found again.

    Returns:
        `data_pipelines.Splits`.

    Raises:
        data_pipelines.TextError: if files are missing.
    """
    data = config.data
    if data.name == "text":
        return data_pipelines.text_splits(data.train, data.valid, data.test)
    if data.name == "lm1b":
        return data_pipelines.lm1b_splits(data.root)
    arguments = data.model_dump(exclude={"name", *LANGUAGE_DATA})
    write = {
        "embedded_text": data_pipelines.write_embedded_text,
        "grammars": data_pipelines.write_grammars,
    }[data.name]
    return write(directory, **arguments)


def build_vocabulary(config, counts=None):
    """The vocabulary of a config.

    Args:
        config: a `Config`.
        counts: words of the training text and how often they occur, `survey(splits.train).words`.
            Not needed with `data.vocabulary.file`.

    Returns:
        `data_pipelines.Vocabulary`.

    Raises:
        ConfigError: if the file has another number of words than `data.vocabulary.size` says.
        data_pipelines.TextError: if the file is missing or is no vocabulary.
    """
    wanted = config.data.vocabulary
    if wanted.file is None:
        return data_pipelines.Vocabulary.from_counts(
            counts, max_size=wanted.size, min_count=wanted.min_count
        )
    vocabulary = data_pipelines.Vocabulary.load(wanted.file)
    if wanted.size is not None and len(vocabulary) != wanted.size:
        message = f"is {wanted.size}, but {wanted.file} has {len(vocabulary)} words; set it to null"
        raise ConfigError([Problem("", "data.vocabulary.size", message)])
    return vocabulary


def build_batches(config, files, vocabulary, *, training, **arguments):
    """Batches of text files by the settings of a config.

    Args:
        config: a `Config`.
        files: one part of a `Splits`.
        vocabulary: a `data_pipelines.Vocabulary`.
        training: shuffled and without end; otherwise in order and once.
        **arguments: further arguments of `data_pipelines.language_model_batches` (`start_batch`,
            `lengths`, shards).

    Returns:
        Dataset of `(inputs, targets)`, both int32 `[B, S]`.
    """
    return data_pipelines.language_model_batches(
        files,
        vocabulary,
        batch_tokens=config.data.batch_tokens,
        max_length=config.data.max_length,
        shuffle=training,
        shuffle_buffer=config.data.shuffle_buffer,
        seed=config.training.seed,
        **{"passes": None if training else 1, **arguments},
    )
