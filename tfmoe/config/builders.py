"""Builds models, optimizers and strategies from a config."""

import keras
import tensorflow as tf

from tfmoe.config.model_schema import block_lists, block_prefix
from tfmoe.config.problems import ConfigError, Problem
from tfmoe.config.schema import Config
from tfmoe.config.sections import SectionError, construct
from tfmoe.models import LanguageModel, TranslationModel, residual_blocks


def build_layer(block, name):
    """Builds the layer of a block, without weights.

    Args:
        block: an item of `model.blocks`, a `Section`.
        name: the layer's name.

    Raises:
        SectionError: if the layer rejects its arguments.
    """
    layer = type(block).made_from.constructor
    return construct(block, name=name, **getattr(layer, "BLOCK_ARGUMENTS", {}))


def build_model(
    config: Config, vocabulary_size: int | None = None
) -> LanguageModel | TranslationModel:
    """Builds the model of a config. No weight is allocated until the model is called or built.

    The name of a block is its kind and its index: `moe_1` for `model.blocks[1]`, `encoder_moe_2`
    for `model.encoder[2]`. `training.seed` seeds dropout and sampling. Initial weights, and the
    noise of gates that have no seed, use Keras' global seed (`keras.utils.set_random_seed`).

    Args:
        config: a `Config`.
        vocabulary_size: number of words with an id; `None` for `data.vocabulary.size`.

    Returns:
        `tfmoe.models.LanguageModel` or `tfmoe.models.TranslationModel`.

    Raises:
        ConfigError: if neither `vocabulary_size` nor `data.vocabulary.size` is given.
    """
    vocabulary_size = vocabulary_size or config.data.vocabulary.size
    if vocabulary_size is None:
        message = (
            "is null, so the size of the model depends on the training text; set it, for example "
            "--set data.vocabulary.size=8000"
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
        sections = getattr(model, key)
        layers = [
            build_layer(block, f"{block_prefix(key)}{block.name}_{index}")
            for index, block in enumerate(sections)
        ]
        # The decoder's seeds continue those of the encoder.
        first_seed = seed + sum(map(len, blocks.values()))
        blocks[key] = residual_blocks(
            layers,
            dropout=model.dropout,
            seed=first_seed,
            residual=[block.residual for block in sections],
            norm=[block.norm for block in sections],
            norm_epsilon=[block.norm_epsilon for block in sections],
            activation=[block.output_activation for block in sections],
        )
    return construct(model, vocabulary_size=vocabulary_size, seed=seed, name=model.name, **blocks)


def build_strategy(config: Config) -> tf.distribute.Strategy:
    """Builds the strategy of a config. Call it before any other use of TensorFlow.

    Args:
        config: a `Config`.

    Returns:
        `tfmoe.distribute.MixedStrategy`, or TensorFlow's default strategy for one device.

    Raises:
        SectionError: a ValueError, if there are too few devices or no cluster is described.
    """
    return construct(config.distribute)


def build_optimizer(config: Config) -> keras.optimizers.Optimizer:
    """Builds the optimizer of a config, with its learning-rate schedule.

    Args:
        config: a `Config`.
    """
    return build_optimizer_from(config.training.optimizer)


def build_optimizer_from(section):
    """Builds the optimizer of a section `training.optimizer`.

    Raises:
        SectionError: if the optimizer or its schedule rejects its arguments.
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
