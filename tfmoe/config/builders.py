"""From a config to objects: the only place that knows both."""

import keras

from tfmoe.config.model_schema import block_lists, block_prefix
from tfmoe.config.problems import ConfigError, Problem
from tfmoe.config.sections import SectionError, construct
from tfmoe.models import residual_blocks


def build_layer(block, name):
    """The layer of a block, unbuilt.

    Args:
        block: a section of `model.blocks`.
        name: the layer's name.

    Raises:
        SectionError: by the layer, if it cannot be.
    """
    layer = type(block).made_from.constructor
    return construct(block, name=name, **getattr(layer, "BLOCK_ARGUMENTS", {}))


def build_model(config, vocabulary_size=None):
    """The model of a config, unbuilt: no weight is allocated until it is called or built.

    Blocks are named after their kind and place, `moe_1` for `model.blocks[1]`, `encoder_moe_2` for
    `model.encoder[2]`. Dropout and sampling are seeded by `training.seed`; initial weights and the
    noise of gates without a seed of their own follow Keras' global one
    (`keras.utils.set_random_seed`).

    Args:
        config: a `Config`.
        vocabulary_size: words with an id; `None` for `data.vocabulary.size`.

    Returns:
        `tfmoe.models.LanguageModel` or `tfmoe.models.TranslationModel`.

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
    global_policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(config.training.dtype_policy)
    try:
        return _model(config.model, vocabulary_size, config.training.seed)
    finally:
        keras.config.set_dtype_policy(global_policy)


def _model(model, vocabulary_size, seed):
    blocks = {}
    for key in block_lists(type(model)):
        layers = [
            build_layer(block, f"{block_prefix(key)}{block.name}_{index}")
            for index, block in enumerate(getattr(model, key))
        ]
        # The seeds of a list continue those of the one before.
        first_seed = seed + sum(map(len, blocks.values()))
        blocks[key] = residual_blocks(
            layers,
            dropout=model.dropout,
            seed=first_seed,
            residual=[block.residual for block in getattr(model, key)],
        )
    return construct(model, vocabulary_size=vocabulary_size, seed=seed, name=model.name, **blocks)


def build_strategy(config):
    """The strategy of a config, to be made before any other use of TensorFlow.

    Args:
        config: a `Config`.

    Returns:
        `tfmoe.distribute.MixedStrategy`, or TensorFlow's default one, which changes nothing.

    Raises:
        SectionError: a ValueError, if there are fewer devices, or no cluster is described.
    """
    return construct(config.distribute)


def build_optimizer(config):
    """The optimizer of a config, with its learning-rate schedule: a
    `keras.optimizers.Optimizer`.
    """
    return build_optimizer_from(config.training.optimizer)


def build_optimizer_from(section):
    """The optimizer of the section `training.optimizer`.

    Raises:
        SectionError: by the optimizer or its schedule, if it cannot be.
    """
    try:
        rate = construct(section.schedule, peak=section.learning_rate)
    except SectionError as error:
        raise SectionError(error.under("schedule")) from error
    return construct(
        section,
        learning_rate=rate,
        clipnorm=section.clip_norm,
        global_clipnorm=section.global_clip_norm,
    )
