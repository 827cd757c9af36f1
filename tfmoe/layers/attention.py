"""Attention over the steps of a source sentence (App. G).

Axes: B batch, S source steps, A attention units, M width of the source vectors, Q width of the
query.
"""

from typing import Literal

import keras
import tensorflow as tf

from tfmoe.ops.arguments import float_tensor, last_dimension, positive

KINDS = ("multiplicative", "additive")


@keras.saving.register_keras_serializable("tfmoe")
class Attention(keras.layers.Layer):
    """Attention of one query over the steps of a source.

    `context = Σ_i p_i x_i` with `p = softmax_i A(x_i, y)`. The score A is one of:

    - `multiplicative` (eq 22): `A(x_i, y) = Σ_d V_d · tanh((x_i·U)_d) · tanh((y·W)_d)`; the scores
      of all source steps are one matrix product;
    - `additive` (eq 21, Wu et al. 2016): `A(x_i, y) = Σ_d V_d · tanh((x_i·U)_d + (y·W)_d)`.

    Args:
        units: A, width of keys and queries.
        kind: `"multiplicative"` or `"additive"`.

    Call arguments:
        query: `[B, Q]` of any numeric type, y.
        keys: `[B, S, A]`, the result of `keys(memory)`, computed once for a sentence.
        memory: `[B, S, M]` of any numeric type, x.
        mask: `[B, S]` bool, `False` for padding, which gets weight 0; `None` for no padding.
        memory_mask: the same; Keras passes it if a mask is attached to `memory`. `mask` takes
            precedence.

    Returns:
        `[B, M]` context in the layer's compute dtype; and `[B, S]` float32 weights p, which sum to
        1. Both are 0 for a source that is all padding.

    Raises:
        ValueError: `units` is below 1, or `kind` is unknown.

    Example:
        >>> attention = Attention(units=16)
        >>> attention.build((None, 32), None, (None, None, 24))
        >>> memory = np.ones((8, 7, 24))
        >>> context, weights = attention(np.ones((8, 32)), attention.keys(memory), memory)
        >>> context.shape, weights.shape
        (TensorShape([8, 24]), TensorShape([8, 7]))
    """

    def __init__(
        self, units: int, kind: Literal["multiplicative", "additive"] = "multiplicative", **kwargs
    ):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.units = positive("units", units)
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        self.kind = kind

    def build(self, query_shape, keys_shape=None, memory_shape=None):
        query_width = memory_width = last_dimension(f"query of {self.name}", query_shape)
        if memory_shape is not None:
            memory_width = last_dimension(f"memory of {self.name}", memory_shape)
        self.input_spec = keras.layers.InputSpec(ndim=2, axes={-1: query_width})
        self.source_kernel = self.add_weight(
            name="source_kernel", shape=(memory_width, self.units), initializer="glorot_uniform"
        )
        self.query_kernel = self.add_weight(
            name="query_kernel", shape=(query_width, self.units), initializer="glorot_uniform"
        )
        self.scale = self.add_weight(name="scale", shape=(self.units,), initializer="ones")

    def keys(self, memory: tf.Tensor) -> tf.Tensor:
        """Computes the keys, `[B, S, M]` to `[B, S, A]`, the part of the scores that is independent
        of the query.

        Args:
            memory: `[B, S, M]` of any numeric type.
        """
        memory = float_tensor(f"memory of {self.name}", memory, self.compute_dtype)
        # Outside of a call Keras does not cast weights.
        product = tf.matmul(memory, tf.cast(self.source_kernel, memory.dtype))
        if self.kind == "additive":
            return product
        return tf.tanh(product) * tf.cast(self.scale, memory.dtype)

    def call(self, query, keys, memory, mask=None, memory_mask=None):
        query = float_tensor(f"query of {self.name}", query, self.compute_dtype)
        keys = float_tensor(f"keys of {self.name}", keys, self.compute_dtype)
        memory = float_tensor(f"memory of {self.name}", memory, self.compute_dtype)
        mask = memory_mask if mask is None else mask
        product = tf.matmul(query, tf.convert_to_tensor(self.query_kernel))
        if self.kind == "additive":
            scale = tf.convert_to_tensor(self.scale)
            scores = tf.linalg.matvec(tf.tanh(keys + tf.expand_dims(product, 1)), scale)
        else:
            scores = tf.linalg.matvec(keys, tf.tanh(product))
        scores = tf.cast(scores, tf.float32)
        if mask is None:
            weights = tf.nn.softmax(scores)
        else:
            mask = tf.cast(mask, tf.bool)
            weights = tf.nn.softmax(tf.where(mask, scores, scores.dtype.min))
            weights = tf.where(mask, weights, 0.0)
        context = tf.matmul(tf.expand_dims(tf.cast(weights, memory.dtype), 1), memory)
        return context[:, 0, :], weights

    def compute_mask(self, query, mask=None):
        """Returns `None`: the outputs have no axis of steps."""
        return None

    def compute_output_shape(self, query_shape, keys_shape, memory_shape):
        return (query_shape[0], memory_shape[-1]), tuple(keys_shape[:2])

    def compute_output_spec(self, query, keys, memory, mask=None, memory_mask=None):
        context, weights = self.compute_output_shape(query.shape, keys.shape, memory.shape)
        return (
            keras.KerasTensor(context, self.compute_dtype),
            keras.KerasTensor(weights, "float32"),
        )

    def get_config(self):
        return {**super().get_config(), "units": self.units, "kind": self.kind}
