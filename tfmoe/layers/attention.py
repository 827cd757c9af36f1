"""Attention over the steps of a source sentence (App. G).

Axes: B batch, S source steps, A attention units, M width of the source vectors, Q width of the
query.
"""

import keras
import tensorflow as tf

from tfmoe.ops.arguments import positive

KINDS = ("multiplicative", "additive")


@keras.saving.register_keras_serializable("tfmoe")
class Attention(keras.layers.Layer):
    """`context = Σ_i p_i x_i` with `p = softmax_i A(x_i, y)` over the source steps.

    `multiplicative` (eq 22): `A(x_i, y) = Σ_d V_d · tanh((x_i·U)_d) · tanh((y·W)_d)`, so that the
    scores of all source steps are one matrix product. `additive` (eq 21, Wu et al. 2016):
    `A(x_i, y) = Σ_d V_d · tanh((x_i·U)_d + (y·W)_d)`.

    Args:
        units: A.
        kind: `"multiplicative"` or `"additive"`.

    Call arguments:
        query: `[B, Q]` float, y.
        keys: `[B, S, A]`, what `keys(memory)` made once for a sentence.
        memory: `[B, S, M]` float, x.
        mask: `[B, S]` bool, `False` for padding, which gets the weight 0; `None` for no padding.

    Returns:
        `[B, M]` context and `[B, S]` float32 weights p, which sum to 1; both are 0 for a source
        without any real step.

    Raises:
        ValueError: for units under 1 or an unknown kind.
    """

    def __init__(self, units, kind="multiplicative", **kwargs):
        super().__init__(**kwargs)
        self.units = positive("units", units)
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        self.kind = kind

    def build(self, query_shape, keys_shape=None, memory_shape=None):
        memory_width = (memory_shape or query_shape)[-1]
        self.source_kernel = self.add_weight(
            name="source_kernel", shape=(memory_width, self.units), initializer="glorot_uniform"
        )
        self.query_kernel = self.add_weight(
            name="query_kernel", shape=(query_shape[-1], self.units), initializer="glorot_uniform"
        )
        self.scale = self.add_weight(name="scale", shape=(self.units,), initializer="ones")

    def keys(self, memory):
        """`[B, S, M]` to `[B, S, A]`: the part of the scores that is the same for all queries."""
        # Outside of a call Keras casts no weight.
        product = tf.matmul(memory, tf.cast(self.source_kernel, memory.dtype))
        if self.kind == "additive":
            return product
        return tf.tanh(product) * tf.cast(self.scale, memory.dtype)

    def call(self, query, keys, memory, mask=None):
        product = tf.matmul(query, tf.convert_to_tensor(self.query_kernel))
        if self.kind == "additive":
            scale = tf.convert_to_tensor(self.scale)
            scores = tf.linalg.matvec(tf.tanh(keys + product[:, None, :]), scale)
        else:
            scores = tf.linalg.matvec(keys, tf.tanh(product))
        scores = tf.cast(scores, tf.float32)
        if mask is None:
            weights = tf.nn.softmax(scores)
        else:
            weights = tf.nn.softmax(tf.where(mask, scores, scores.dtype.min))
            weights = tf.where(mask, weights, 0.0)
        context = tf.matmul(tf.cast(weights, memory.dtype)[:, None, :], memory)
        return context[:, 0, :], weights

    def compute_output_shape(self, query_shape, keys_shape, memory_shape):
        return (query_shape[0], memory_shape[-1]), tuple(keys_shape[:2])

    def parameter_count(self, query_dim, memory_dim):
        """Weights of the layer."""
        return (query_dim + memory_dim + 1) * self.units

    def get_config(self):
        return {**super().get_config(), "units": self.units, "kind": self.kind}
