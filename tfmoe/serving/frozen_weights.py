"""The weights of a model in an exported graph."""

import keras
import tensorflow as tf

from tfmoe.layers.mixture_layer import mixtures_of


class FrozenWeights:
    """Read-only weights of an exported graph, in the model's dtype or in bfloat16.

    With `half`, the embedding, the softmax and all matrices of layers are stored in bfloat16; the
    graph computes in the model's own compute type. Gates, including the learned thresholds of
    `Batchwise`, keep their dtype, because rounding would send tokens to other experts. Biases keep
    theirs too.

    Args:
        model: a built Keras model.
        half: whether to store matrices in bfloat16.

    Attributes:
        variables: list of `tf.Variable`, which the exported module must own.
    """

    def __init__(self, model: keras.Model, half: bool = False):
        unrounded = set() if half else {id(weight) for weight in model.weights}
        for mixture in mixtures_of(model).values():
            unrounded |= {id(weight) for weight in mixture.gate.weights}
        self._weights = list(model.weights)
        self.variables = [
            weight.value if id(weight) in unrounded or not is_matrix(weight) else half_copy(weight)
            for weight in self._weights
        ]

    def scope(self) -> keras.StatelessScope:
        """A scope in which the model computes with these weights.

        Enter it in a graph: weights are then cast once, outside of loops.
        """
        pairs = zip(self._weights, self.variables, strict=True)
        return keras.StatelessScope(
            [(weight, tf.cast(variable, weight.dtype)) for weight, variable in pairs]
        )

    def round_model(self):
        """Assigns the rounded weights to the model, to measure the effect of rounding."""
        for weight, variable in zip(self._weights, self.variables, strict=True):
            if weight.value is not variable:
                weight.assign(tf.cast(variable, weight.dtype))


def is_matrix(weight):
    """Whether a weight is a matrix or table. The experts' biases have two axes but are not."""
    return len(weight.shape) > 1 and "bias" not in weight.name.split("_")


def half_copy(weight):
    """A copy of a weight in bfloat16."""
    return tf.Variable(tf.cast(weight.value, tf.bfloat16), trainable=False, name=weight.name)
