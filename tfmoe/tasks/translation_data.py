"""From a config to the text, the vocabulary and the batches of a translation model."""

import data_pipelines
from tfmoe.config.problems import ConfigError, Problem

# Keys of an embedded corpus that its writer takes as they are.
CORPUS_KEYS = {"sentences", "valid_sentences", "test_sentences", "seed"}


def build_parallel_splits(config, directory):
    """The text of a config: found, or written where it is generated.

    Args:
        config: a `Config` of a translation model.
        directory: where the embedded text is written, and found again.

    Returns:
        `data_pipelines.Splits` of `data_pipelines.ParallelFiles`, one for each direction.

    Raises:
        data_pipelines.TextError: if files are missing.
    """
    data = config.data
    if data.name == "wmt14":
        found = data_pipelines.wmt14_files(data.root, data.source_language, data.target_language)
        return data_pipelines.Splits([found.train], [found.valid], [found.test])
    directions = _directions(data, directory)
    parts = []
    for part in ("train", "valid", "test"):
        parts.append(
            [
                data_pipelines.find_parallel(
                    prefixes[part],
                    source,
                    target,
                    **({"weight": weight} if part == "train" else {}),
                )
                for source, target, weight, prefixes in directions
                if prefixes[part]
            ]
        )
    return data_pipelines.Splits(*parts)


def _directions(data, directory):
    """List of `(source language, target language, weight, {part: prefixes})`."""
    if data.name == "embedded_translation":
        pairs = language_pairs(data)
        written = data_pipelines.write_embedded_translation(
            directory, pairs=pairs, **data.model_dump(include=CORPUS_KEYS)
        )
        return [(*pair, 1.0, written[pair]) for pair in pairs]
    directions = data.directions or [data]
    return [
        (
            each.source_language,
            each.target_language,
            getattr(each, "weight", 1.0),
            {part: getattr(each, part) for part in ("train", "valid", "test")},
        )
        for each in directions
    ]


def target_languages(data):
    """The languages that a source must ask for with a symbol: sorted, none for one direction."""
    directions = language_pairs(data)
    return sorted({target for _, target in directions}) if len(directions) > 1 else []


def language_pairs(data):
    """The directions of a config's `data`, each once: `[("en", "fr"), …]`."""
    if data.name == "embedded_translation":
        return [tuple(pair.split("-")) for pair in data.pairs]
    directions = getattr(data, "directions", None) or [data]
    pairs = ((each.source_language, each.target_language) for each in directions)
    return list(dict.fromkeys(pairs))


def empty_sides(data):
    """What to do with a pair that has an empty side: `"error"`, or `"skip"` where the publisher's
    own files have some.
    """
    return "skip" if data.name == "wmt14" else "error"


def build_subwords(config, files):
    """The subword vocabulary of a config.

    Args:
        config: a `Config` of a translation model.
        files: the training text, list of `data_pipelines.ParallelFiles`.

    Returns:
        `data_pipelines.Subwords`.

    Raises:
        ConfigError: if the file has another size or other languages than the config.
        data_pipelines.TextError: if the file is missing or is no such model.
        ValueError: if the text has too many characters for the size.
    """
    wanted, languages = config.data.vocabulary, target_languages(config.data)
    if wanted.file is None:
        every = (
            sentence
            for each in unidirectional(files)
            for pair in data_pipelines.sentence_pairs(each, empty=empty_sides(config.data))
            for sentence in pair
        )
        try:
            return data_pipelines.Subwords.train(
                every,
                wanted.size,
                languages=languages,
                character_coverage=wanted.character_coverage,
            )
        except ValueError as error:
            if not str(error).startswith("size "):
                raise
            message = str(error).removeprefix("size ")
            raise ConfigError([Problem("", "data.vocabulary.size", message)]) from error
    subwords = data_pipelines.Subwords.load(wanted.file)
    if wanted.size is not None and len(subwords) != wanted.size:
        message = f"is {wanted.size}, but {wanted.file} has {len(subwords)} ids; set it to null"
        raise ConfigError([Problem("", "data.vocabulary.size", message)])
    if sorted(subwords.languages) != languages:
        message = (
            f"{wanted.file} has symbols for the languages {subwords.languages}, but this config "
            f"translates into {languages}; set it to null to train a new one"
        )
        raise ConfigError([Problem("", "data.vocabulary.file", message)])
    return subwords


def unidirectional(files):
    """Of a list of `ParallelFiles`, those that are not another one in the other direction."""
    kept, seen = [], set()
    for each in files:
        key = frozenset(
            zip(
                (each.source_language, each.target_language),
                map(tuple, (each.source, each.target)),
                strict=True,
            )
        )
        if key not in seen:
            seen.add(key)
            kept.append(each)
    return kept


def build_parallel_batches(config, files, subwords, *, training, **arguments):
    """Batches of parallel text by the settings of a config.

    Args:
        config: a `Config` of a translation model.
        files: list of `data_pipelines.ParallelFiles`.
        subwords: a `data_pipelines.Subwords`.
        training: shuffled and without end; otherwise in order and once.
        **arguments: further arguments of `data_pipelines.parallel_batches` (`start_batch`,
            `lengths`).

    Returns:
        Dataset of `((source, target), targets)`, int32 `[B, S]`, `[B, T]` and `[B, T]`.
    """
    return data_pipelines.parallel_batches(
        files,
        subwords,
        batch_words=config.data.batch_words,
        max_length=config.data.max_length,
        shuffle=training,
        shuffle_buffer=config.data.shuffle_buffer,
        seed=config.training.seed,
        tag_language=bool(subwords.languages),
        **{"passes": None if training else 1, **arguments},
    )
