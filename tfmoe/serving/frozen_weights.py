"""The weights of a model as an exported graph holds them."""

import keras
import tensorflow as tf

from tfmoe.layers.mixture_layer import mixtures_of


class FrozenWeights:
    """Weights that a graph reads and never assigns, in full or half size.

    Half size is bfloat16 for embedding, softmax and all matrices of the layers; the graph computes
    in the model's own type. Gates stay whole, with the learned thresholds of `Batchwise`: rounding
    them would send tokens to other experts. So do biases.

    Args:
        model: a built Keras model.
        half: whether in half size.

    Attributes:
        variables: list of `tf.Variable`, which the exported module has to hold.
    """

    def __init__(self, model, half=False):
        whole = set() if half else {id(weight) for weight in model.weights}
        for mixture in mixtures_of(model).values():
            whole |= {id(weight) for weight in mixture.gate.weights}
        self._weights = list(model.weights)
        self.variables = [
            weight.value if id(weight) in whole or not is_matrix(weight) else halved(weight)
            for weight in self._weights
        ]

    def scope(self):
        """A scope in which the model computes with these weights. To be entered in a graph: what is
        cast there is cast once, also for loops.
        """
        pairs = zip(self._weights, self.variables, strict=True)
        return keras.StatelessScope(
            [(weight, tf.cast(variable, weight.dtype)) for weight, variable in pairs]
        )

    def round_model(self):
        """Gives the model itself the rounded weights, to measure what they change."""
        for weight, variable in zip(self._weights, self.variables, strict=True):
            if weight.value is not variable:
                weight.assign(tf.cast(variable, weight.dtype))


def is_matrix(weight):
    """Whether a weight is multiplied with (or looked up in), and not a bias of each expert."""
    return len(weight.shape) > 1 and not weight.name.startswith("bias")


def halved(weight):
    """A bfloat16 copy."""
    return tf.Variable(tf.cast(weight.value, tf.bfloat16), trainable=False, name=weight.name)
