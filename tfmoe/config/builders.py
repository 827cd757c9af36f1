"""From a config to objects: the only place that knows both."""

import keras
import tensorflow as tf

from tfmoe import distribute, layers, optimizers
from tfmoe.config.problems import ConfigError, Problem
from tfmoe.models import LanguageModel, TranslationModel, residual_blocks
from tfmoe.optimizers import WarmupInverseSqrt

BLOCKS = {
    "lstm": lambda **arguments: layers.ProjectedLSTM(return_sequences=True, **arguments),
    "moe": layers.MoE,
    "feed_forward": layers.FeedForward,
    "attention_lstm": layers.AttentionLSTM,
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
    model, seed = config.model, config.training.seed
    shared = {
        "dropout": model.dropout,
        "num_sampled": model.num_sampled,
        "seed": seed,
        "name": model.name,
    }
    global_policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(config.training.dtype_policy)
    try:
        if model.name == "language_model":
            blocks = _blocks(model.blocks, "", model.dropout, seed)
            return LanguageModel(vocabulary_size, model.d_model, blocks, **shared)
        encoder = _blocks(model.encoder, "encoder_", model.dropout, seed)
        # Seeds go on where those of the encoder end.
        decoder = _blocks(model.decoder, "decoder_", model.dropout, seed + len(encoder))
        return TranslationModel(vocabulary_size, model.d_model, encoder, decoder, **shared)
    finally:
        keras.config.set_dtype_policy(global_policy)


def _blocks(sections, prefix, dropout, seed):
    made = [
        build_layer(block, f"{prefix}{block.name}_{index}") for index, block in enumerate(sections)
    ]
    return residual_blocks(made, dropout=dropout, seed=seed)


def build_strategy(config):
    """The strategy of a config, to be made before any other use of TensorFlow.

    Args:
        config: a `Config`.

    Returns:
        `tfmoe.distribute.MixedStrategy`, or TensorFlow's default one, which changes nothing.

    Raises:
        ValueError: if there are fewer devices than wanted, or no cluster is described.
    """
    section = config.distribute
    if section.name == "local":
        return distribute.MixedStrategy(distribute.local_devices(section.devices))
    if section.name == "cluster":
        resolver = distribute.cluster_resolver(section.resolver)
        return distribute.MixedStrategy(
            cluster_resolver=resolver, start_timeout_seconds=section.start_timeout_seconds
        )
    return tf.distribute.get_strategy()


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
