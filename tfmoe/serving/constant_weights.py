"""The weights of a model as constants of a graph, for formats that have no variables."""

import keras
import tensorflow as tf

# A graph is one protocol buffer, which has at most 2 GiB, and also has operations.
MAX_BYTES = 2**31 - 2**26


class ConstantWeights:
    """The weights of a model as constants.

    Args:
        model: a built Keras model whose variables are not sharded.

    Raises:
        ValueError: if the weights have more than 2 GB, which is more than a graph can hold.
    """

    def __init__(self, model: keras.Model):
        self._weights = list(model.weights)
        self._values = [weight.value.numpy() for weight in self._weights]
        size = sum(value.nbytes for value in self._values)
        if size > MAX_BYTES:
            raise ValueError(
                f"the weights must have at most {MAX_BYTES / 1e9:.1f} GB in this format, got "
                f"{size / 1e9:.1f} GB"
            )

    def scope(self) -> keras.StatelessScope:
        """A scope in which the model computes with constants. Enter it in a graph."""
        pairs = zip(self._weights, self._values, strict=True)
        return keras.StatelessScope([(weight, tf.constant(value)) for weight, value in pairs])
