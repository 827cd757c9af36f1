"""The weights of a model as tensors, for formats that have no variables."""

import keras
import tensorflow as tf

# A graph is one protocol buffer, which has at most 2 GiB, and also has operations.
MAX_BYTES = 2**31 - 2**26


class ConstantWeights:
    """The weights of a model as tensors, which functions capture when they are traced. Functions
    share them, and their graphs do not have the values.

    Args:
        model: a built Keras model whose variables are not sharded.
    """

    def __init__(self, model: keras.Model):
        self._values = [(weight, tf.convert_to_tensor(weight.value)) for weight in model.weights]

    def scope(self) -> keras.StatelessScope:
        """A scope in which the model computes with these tensors."""
        return keras.StatelessScope(self._values)


def captured(function: tf.types.experimental.ConcreteFunction) -> dict[str, tf.Tensor]:
    """The tensors that a function captured, `{name of the placeholder in its graph: tensor}`. Small
    ones, of at most 128 values, are constants of the graph instead.

    Args:
        function: a concrete function without variables.
    """
    values = function.captured_inputs
    names = [tensor.op.name for tensor in function.inputs[len(function.inputs) - len(values) :]]
    return dict(zip(names, values, strict=True))


def check_size(functions: dict, format: str):
    """Checks that one graph can hold the weights of functions.

    Args:
        functions: `{name: tf.function}` with one concrete function each.
        format: name of the format, for the error.

    Raises:
        ValueError: if the weights have more than `MAX_BYTES`.
    """
    graphs = [captured(function.get_concrete_function()) for function in functions.values()]
    weights = {id(tensor): tensor for graph in graphs for tensor in graph.values()}
    size = sum(tensor.dtype.size * tensor.shape.num_elements() for tensor in weights.values())
    if size > MAX_BYTES:
        raise ValueError(
            f"{format} cannot hold the model: its weights must have at most {MAX_BYTES / 1e9:.1f} "
            f"GB, got {size / 1e9:.1f} GB"
        )
