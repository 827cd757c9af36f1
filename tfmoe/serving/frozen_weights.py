"""The weights of a model in an exported graph."""

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf

from tfmoe.layers.mixture_layer import mixtures_of
from tfmoe.ops.packed_weights import PackedWeight, quantize, unpacked_from

STORED = ("float32", "bfloat16", "int8")
SMALLEST_INT8 = 2**10  # elements; smaller matrices keep their dtype


class FrozenWeights:
    """Read-only weights of an exported graph, in the model's dtype, in bfloat16 or in int8.

    In bfloat16, the embedding, the softmax and all matrices of layers are stored so; the graph
    computes in the model's own compute type. In int8, those with at least 1,024 elements are, with
    one float32 scale for each output (of each expert) of a matrix, and for each word of the
    embedding and the softmax: see `tfmoe.ops.packed_weights.quantize`. Gates, including the learned
    thresholds of `Batchwise`, keep their dtype, because rounding would send tokens to other
    experts. Biases keep theirs too.

    Args:
        model: a built Keras model; for int8 a language or translation model.
        stored: `"float32"`, which is the model's dtype, `"bfloat16"` or `"int8"`.

    Attributes:
        variables: list of `tf.Variable`, which the exported module must own.

    Raises:
        ValueError: if `stored` has another value, or a weight is not finite, with int8.
    """

    def __init__(self, model: keras.Model, stored: str = "float32"):
        if stored not in STORED:
            raise ValueError(f"stored must be one of {', '.join(STORED)}, got {stored!r}")
        pack = {"float32": whole, "bfloat16": rounded, "int8": quantized}[stored]
        exact = {
            id(weight) for mixture in mixtures_of(model).values() for weight in mixture.gate.weights
        }
        tables = {id(weight) for weight in word_tables(model)} if stored == "int8" else ()
        self._weights = list(model.weights)
        self._packed = [
            whole(weight)
            if id(weight) in exact or not is_matrix(weight)
            else pack(weight, axis=-1 if id(weight) in tables else -2)
            for weight in self._weights
        ]
        values, scales = zip(*self._packed, strict=True)
        self.variables = [*values, *(scale for scale in scales if scale is not None)]

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """A scope in which the model computes with these weights.

        Enter it in a graph: weights are then unpacked once, outside of loops, and the matrices of
        large experts where they are used.
        """
        tensors = [
            packed.unpack(weight.dtype)
            for weight, packed in zip(self._weights, self._packed, strict=True)
        ]
        sources = {
            tensor.ref(): packed
            for tensor, packed in zip(tensors, self._packed, strict=True)
            if packed.values.dtype != tensor.dtype
        }
        pairs = list(zip(self._weights, tensors, strict=True))
        with unpacked_from(sources), keras.StatelessScope(pairs):
            yield

    def round_model(self):
        """Assigns the rounded weights to the model, to measure the effect of rounding."""
        for weight, packed in zip(self._weights, self._packed, strict=True):
            if weight.value is not packed.values:
                weight.assign(packed.unpack(weight.dtype))


def is_matrix(weight):
    """Whether a weight is a matrix or table. The experts' biases have two axes but are not."""
    return len(weight.shape) > 1 and "bias" not in weight.name.split("_")


def word_tables(model):
    """The weights of a language or translation model that have a row for each word."""
    return [model.embedding.embeddings, model.softmax.kernel]


def whole(weight, axis=None):
    """The weight itself."""
    return PackedWeight(weight.value)


def rounded(weight, axis=None):
    """A copy of a weight in bfloat16."""
    return PackedWeight(frozen(tf.cast(weight.value, tf.bfloat16), weight.name))


def quantized(weight, axis):
    """A copy of a weight in int8, of a small weight the weight itself."""
    if weight.value.shape.num_elements() < SMALLEST_INT8:
        return whole(weight)
    try:
        values, scale = quantize(weight.value, axis)
    except ValueError as error:
        raise ValueError(f"{weight.path}: {error}") from None
    return PackedWeight(frozen(values, weight.name), frozen(scale, f"{weight.name}_scale"))


def frozen(value, name):
    return tf.Variable(value, trainable=False, name=name)
