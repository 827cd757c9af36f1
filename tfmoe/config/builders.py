"""From a config to objects: the only place that knows both."""

import keras

import data_pipelines
from tfmoe import layers, optimizers
from tfmoe.config.problems import ConfigError, Problem
from tfmoe.models import LanguageModel, residual_blocks
from tfmoe.optimizers import WarmupInverseSqrt

BLOCKS = {
    "lstm": lambda **arguments: layers.ProjectedLSTM(return_sequences=True, **arguments),
    "moe": layers.MoE,
    "feed_forward": layers.FeedForward,
}
OPTIMIZERS = {
    "adam": keras.optimizers.Adam,
    "factored_adam": optimizers.FactoredAdam,
    "factored_adagrad": optimizers.FactoredAdagrad,
}


def build_layer(block, name):
    """The layer of a block, unbuilt.

    Args:
        block: a section of `model.blocks`.
        name: the layer's name.

    Raises:
        ValueError: by the layer, if it cannot be; the message begins with the argument's name.
    """
    arguments = block.model_dump()
    return BLOCKS[arguments.pop("name")](name=name, **arguments)


def build_model(config, vocabulary_size=None):
    """The model of a config, unbuilt: no weight is allocated until it is called or built.

    Blocks are named after their kind and place, `moe_1` for `model.blocks[1]`. Dropout and sampling
    are seeded by `training.seed`; initial weights and the noise of gates without a seed of their
    own follow Keras' global one (`keras.utils.set_random_seed`).

    Args:
        config: a `Config`.
        vocabulary_size: words with an id; `None` for `data.vocabulary.size`.

    Returns:
        `tfmoe.models.LanguageModel`.

    Raises:
        ConfigError: if neither gives the size of the vocabulary.
    """
    vocabulary_size = vocabulary_size or config.data.vocabulary.size
    if vocabulary_size is None:
        message = (
            "is null, so that only the training text tells the size of the model; set it, for "
            "example --set data.vocabulary.size=8000"
        )
        raise ConfigError([Problem("", "data.vocabulary.size", message)])
    model, seed = config.model, config.training.seed
    global_policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(config.training.dtype_policy)
    try:
        blocks = [
            build_layer(block, f"{block.name}_{index}") for index, block in enumerate(model.blocks)
        ]
        return LanguageModel(
            vocabulary_size,
            model.d_model,
            residual_blocks(blocks, dropout=model.dropout, seed=seed),
            dropout=model.dropout,
            num_sampled=model.num_sampled,
            seed=seed,
            name=model.name,
        )
    finally:
        keras.config.set_dtype_policy(global_policy)


def build_optimizer(config):
    """The optimizer of a config, with its learning-rate schedule: a
    `keras.optimizers.Optimizer`.
    """
    return build_optimizer_from(config.training.optimizer)


def build_optimizer_from(optimizer):
    """The optimizer of the section `training.optimizer`."""
    shared = {"name", "learning_rate", "schedule", "clip_norm", "global_clip_norm"}
    return OPTIMIZERS[optimizer.name](
        learning_rate=_schedule(optimizer.schedule, optimizer.learning_rate),
        clipnorm=optimizer.clip_norm,
        global_clipnorm=optimizer.global_clip_norm,
        **optimizer.model_dump(exclude=shared),
    )


def _schedule(schedule, learning_rate):
    if schedule.name == "constant":
        return learning_rate
    if schedule.name == "cosine_decay":
        return keras.optimizers.schedules.CosineDecay(
            0.0,
            max(1, schedule.steps - schedule.warmup_steps),
            alpha=schedule.final_fraction,
            warmup_target=learning_rate,
            warmup_steps=schedule.warmup_steps,
        )
    return WarmupInverseSqrt(learning_rate, schedule.warmup_steps, schedule.constant_steps)


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


# Keys of `data` that all kinds of data share.
LANGUAGE_DATA = ("vocabulary", "batch_tokens", "max_length", "shuffle_buffer")


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
