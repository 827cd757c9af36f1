"""Attention of a decoder to the source of a translation, with several heads.

Axes: B batch, T steps, S source steps, D model, H heads of queries, K heads of keys and values, U
units of a head.
"""

from typing import NamedTuple

import keras
import tensorflow as tf

from tfmoe.layers.attention_heads import AttentionHeads
from tfmoe.layers.block import Kept
from tfmoe.ops.arguments import Initializer, float_tensor, last_dimension
from tfmoe.ops.attention import attend


class ProjectedSource(NamedTuple):
    """A source to attend to.

    Attributes:
        keys: `[B, K, S, U]`.
        values: `[B, K, S, U]`.
        mask: `[B, S]` bool, or `None`.
    """

    keys: tf.Tensor
    values: tf.Tensor
    mask: tf.Tensor | None


@keras.saving.register_keras_serializable("tfmoe")
class CrossAttention(AttentionHeads):
    """Multi-head attention of each position to the source m (Vaswani et al. 2017):
    `y = concat_h(softmax(q_h·k_hᵀ / √U)·v_h)·W_O`, with `q = x·W_Q`, `k = m·W_K`, `v = m·W_V`.

    In a Transformer it is a block of the decoder, between self-attention and feed-forward network:
    `Residual(CrossAttention(8), norm="rms")`.

    Args:
        num_heads: H, number of heads of the queries.
        num_key_value_heads: K, number of heads of keys and values, a divisor of H: H / K heads
            share keys and values (Ainslie et al. 2023); `None` for H.
        head_units: U, width of a head; `None` for D / H.
        use_bias: whether the four projections have biases.
        kernel_initializer: a Keras initializer, or a function of shape and dtype.

    Call arguments:
        inputs: `[B, T, D]` of any numeric type.
        memory: `[B, S, M]` of any numeric type, the source vectors, m.
        memory_mask: `[B, S]` bool, `False` for padding, which no position attends to.
        return_attention: whether to also return the attention weights, the mean of the heads.

    Returns:
        `[B, T, D]` in the layer's compute dtype; with `return_attention` followed by `[B, T, S]`
        float32. Both are 0 for a source that is all padding.

    Raises:
        ValueError: an argument is out of range; in `build`, H does not divide D.

    Example:
        >>> attention = CrossAttention(num_heads=4)
        >>> attention(np.ones((8, 5, 16)), np.ones((8, 7, 16))).shape
        TensorShape([8, 5, 16])
    """

    is_causal = True
    needs_memory = True

    def __init__(
        self,
        num_heads: int,
        num_key_value_heads: int | None = None,
        head_units: int | None = None,
        use_bias: bool = False,
        kernel_initializer: Initializer = "glorot_uniform",
        **kwargs,
    ):
        super().__init__(
            num_heads, num_key_value_heads, head_units, use_bias, kernel_initializer, **kwargs
        )

    def build(self, inputs_shape, memory_shape=None):
        width = memory_width = last_dimension(f"inputs of {self.name}", inputs_shape, rank=3)
        if memory_shape is not None:
            memory_width = last_dimension(f"memory of {self.name}", memory_shape, rank=3)
        self.build_heads(width, memory_width)

    def prepared(self, memory, memory_mask=None):
        """Computes the `ProjectedSource` that all steps share.

        Args:
            memory: as for a call.
            memory_mask: as for a call.
        """
        memory = float_tensor(f"memory of {self.name}", memory, self.compute_dtype)
        mask = None if memory_mask is None else tf.cast(memory_mask, tf.bool)
        return ProjectedSource(*self.keys_and_values(memory), mask)

    def call(self, inputs, memory, memory_mask=None, return_attention=False, training=False):
        inputs = float_tensor(f"inputs of {self.name}", inputs, self.compute_dtype)
        outputs, weights = self._attend(inputs, self.prepared(memory, memory_mask))
        return (outputs, weights) if return_attention else outputs

    def step(self, inputs, state, prepared):
        """Computes one step.

        Args:
            inputs: `[B, D]` of any numeric type.
            state: empty.
            prepared: a `ProjectedSource`.

        Returns:
            Output `[B, D]`, the empty state, attention weights `[B, S]` float32.
        """
        inputs = float_tensor(f"inputs of {self.name}", inputs, self.compute_dtype)
        outputs, weights = self._attend(tf.expand_dims(inputs, 1), prepared)
        return outputs[:, 0], state, weights[:, 0]

    def _attend(self, inputs, source):
        """Outputs `[B, T, D]` and the heads' mean weights `[B, T, S]` of `[B, T, D]`."""
        mask = None if source.mask is None else tf.expand_dims(source.mask, 1)
        contexts, weights = attend(self.queries(inputs), source.keys, source.values, mask)
        weights = tf.cast(tf.reduce_mean(weights, axis=1), tf.float32)
        if mask is not None:
            weights = tf.where(mask, weights, 0)
        return self.joined(contexts), weights

    def compute_output_shape(self, inputs_shape, memory_shape=None):
        return tuple(inputs_shape)

    def compute_output_spec(
        self, inputs, memory, memory_mask=None, return_attention=False, training=False
    ):
        outputs = keras.KerasTensor(inputs.shape, self.compute_dtype)
        if not return_attention:
            return outputs
        return outputs, keras.KerasTensor((*inputs.shape[:2], memory.shape[1]), "float32")

    def kept_for_backward(self, input_dim, steps=0):
        """Bytes kept per position: the input, D values; queries and contexts, `2·H·U`; H weights
        for each of the S source positions.
        """
        return Kept(self.kept_by_queries(input_dim, steps))

    def kept_of_source(self, input_dim):
        """Bytes kept per source position: the source vector, D values; its keys and values,
        `2·K·U`.
        """
        size = tf.as_dtype(self.compute_dtype).size
        return size * input_dim + self.kept_by_keys(input_dim)
