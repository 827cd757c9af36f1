"""The token ids at the positions that a mixture processes, from the inputs of its model.

Axes: B rows of a batch, S steps.
"""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from tfmoe.layers.mixture_layer import layers_within, mixtures_of

TOKEN_IDS = "token_ids"  # the ids among the inputs of KerasHub's models


class TokenIds:
    """Finds the token ids of mixtures.

    Args:
        model: a Keras model.
        tokens: as for `tfmoe.inspection.route_text`.

    Call arguments:
        mixture: name of the mixture.
        inputs: inputs of a batch.
        shape: shape of the mixture's inputs without the last axis.

    Returns:
        `[B, S]` integers; `None` if `tokens` returns `None`.

    Raises:
        ValueError: there are no such ids among the inputs, or several.
    """

    def __init__(self, model: keras.Model, tokens: Callable | keras.Layer | None = None):
        if isinstance(tokens, keras.Layer):
            tokens = tokens_of_layer(tokens)
        elif tokens is None and hasattr(model, "tokens_by_block"):
            tokens = block_tokens(model)
        self._tokens = tokens or tokens_of_strings(model)

    def __call__(self, mixture, inputs, shape):
        ids = self._tokens(mixture, inputs)
        if ids is None:
            return None
        named = integers_by_name(ids)
        matching = {
            name: x for name, x in named.items() if x.ndim == 2 and shape in (x.shape, (x.size,))
        }
        if TOKEN_IDS in matching:
            return matching[TOKEN_IDS]
        if len(matching) != 1:
            shapes = ", ".join(str(list(x.shape)) for x in named.values()) or "none"
            raise ValueError(
                f"{mixture} processes positions of shape {list(shape)}, and exactly one input of "
                f"integer token ids must have this shape [B, S], got {shapes}: pass tokens=lambda "
                "mixture, inputs: … to select or compute the ids (None for a mixture that "
                "processes no tokens), or use route_batches, which needs no token ids"
            )
        return next(iter(matching.values()))


def integers_by_name(inputs):
    """The integer arrays of a structure, by the keys of a dictionary or by their order."""
    is_flat = isinstance(inputs, dict) and len(tf.nest.flatten(inputs)) == len(inputs)
    named = inputs.items() if is_flat else enumerate(tf.nest.flatten(inputs))
    arrays = {name: np.asarray(x) for name, x in named}
    return {name: x for name, x in arrays.items() if np.issubdtype(x.dtype, np.integer)}


def tokens_of_layer(layer):
    """The function `tokens` for a layer that computes the ids of the inputs."""
    return lambda mixture, inputs: layer(inputs)


def tokens_of_strings(model):
    """The function `tokens` that returns the inputs; but, for a model with one `TextVectorization`
    layer and one input of strings, what this layer returns.
    """
    layers = [x for x in layers_within(model) if isinstance(x, keras.layers.TextVectorization)]

    def tokens(mixture, inputs):
        strings = [x for x in tf.nest.flatten(inputs) if is_string(x)]
        is_clear = len(layers) == len(strings) == 1 and not integers_by_name(inputs)
        return layers[0](strings[0]) if is_clear else inputs

    return tokens


def is_string(x):
    """Whether a tensor or an array has strings."""
    return tf.convert_to_tensor(x).dtype == tf.string


def block_tokens(model):
    """The argument `tokens` of `route_text` for a model with the method `tokens_by_block`."""
    names = {id(mixture): name for name, mixture in mixtures_of(model).items()}
    block_indices = {
        names[id(mixture)]: index
        for index, block in enumerate(model.blocks)
        for mixture in mixtures_of(block).values()
    }

    def tokens(mixture, inputs):
        index = block_indices.get(mixture)
        return inputs if index is None else model.tokens_by_block(inputs)[index]

    return tokens
