"""Self-attention with several heads, rotary positions, and a cache for decoding.

Axes: B batch, S steps, D model, H heads of queries, K heads of keys and values, U units of a head,
L length of the cache.
"""

from typing import NamedTuple

import keras
import tensorflow as tf

from tfmoe.distribute.static_shapes import static_shapes
from tfmoe.layers.attention_heads import AttentionHeads
from tfmoe.layers.block import Kept
from tfmoe.layers.normalization import EPSILON, Norm, normalization, normalized
from tfmoe.ops.arguments import (
    Initializer,
    boolean,
    float_tensor,
    last_dimension,
    positive,
    positive_or_none,
)
from tfmoe.ops.attention import attend, rotated


class Cache(NamedTuple):
    """The keys and values of the steps so far.

    Attributes:
        position: `[B]` int32, the number of steps so far.
        keys: `[B, K, L, U]`, normalized and rotated.
        values: `[B, K, L, U]`.
    """

    position: tf.Tensor
    keys: tf.Tensor
    values: tf.Tensor


@keras.saving.register_keras_serializable("tfmoe")
class SelfAttention(AttentionHeads):
    """Multi-head self-attention (Vaswani et al. 2017) with rotary positions (Su et al. 2021):
    `y = concat_h(softmax(q_h·k_hᵀ / √U)·v_h)·W_O`, with `q = rotate(x·W_Q)`, `k = rotate(x·W_K)`,
    `v = x·W_V`.

    In a Transformer it is a block with a normalization before it and a residual connection around
    it: `Residual(SelfAttention(8), norm="rms")`.

    Args:
        num_heads: H, number of heads of the queries.
        num_key_value_heads: K, number of heads of keys and values, a divisor of H: H / K heads
            share keys and values (Ainslie et al. 2023), and the cache is H / K times smaller;
            `None` for H.
        head_units: U, width of a head; `None` for D / H.
        causal: whether a position attends to itself and earlier positions only. A layer that also
            attends to later ones is for encoders: it has no `step`.
        rotary_base: base of the angles of rotary positions; `None` for no positions. Then a causal
            layer knows the order of words only from how many words it attends to.
        use_bias: whether the four projections have biases.
        kernel_initializer: a Keras initializer, or a function of shape and dtype.
        query_key_norm: normalization of each query and key over its U units, before the rotation
            (Henry et al. 2020): `"rms"` (RMSNorm, as in Qwen3), `"layer"` (LayerNorm) or `None` for
            none. All heads share its weights.
        query_key_norm_epsilon: added to the mean square or the variance of these normalizations,
            above 0.
        sliding_window: `None`, or the number of positions that a position attends to: itself and
            `sliding_window - 1` earlier ones (Jiang et al. 2023, Mistral). Needs `causal`. The
            cache keeps the keys and values of all steps.

    Call arguments:
        inputs: `[B, S, D]` of any numeric type.
        mask: `[B, S]` bool, `False` for padding, which no position attends to.

    Returns:
        `[B, S, D]` in the layer's compute dtype.

    Raises:
        ValueError: an argument is out of range, or `sliding_window` is set without `causal`; in
            `build`, H does not divide D, or U is odd with
            rotary positions.

    Example:
        >>> SelfAttention(num_heads=4)(np.ones((8, 5, 16))).shape
        TensorShape([8, 5, 16])
    """

    def __init__(
        self,
        num_heads: int,
        num_key_value_heads: int | None = None,
        head_units: int | None = None,
        causal: bool = True,
        rotary_base: float | None = 10000.0,
        use_bias: bool = False,
        kernel_initializer: Initializer = "glorot_uniform",
        query_key_norm: Norm | None = None,
        query_key_norm_epsilon: float = EPSILON,
        sliding_window: int | None = None,
        **kwargs,
    ):
        super().__init__(
            num_heads, num_key_value_heads, head_units, use_bias, kernel_initializer, **kwargs
        )
        self.causal = boolean("causal", causal)
        self.rotary_base = positive_or_none("rotary_base", rotary_base)
        self.query_key_norm = query_key_norm
        self.query_key_norm_epsilon = query_key_norm_epsilon
        self.query_norm, self.key_norm = (
            normalization(
                "query_key_norm", query_key_norm, name, self.dtype_policy, query_key_norm_epsilon
            )
            for name in ("query_norm", "key_norm")
        )
        self.sliding_window = None
        if sliding_window is not None:
            self.sliding_window = positive("sliding_window", sliding_window)
            if not self.causal:
                raise ValueError(
                    f"sliding_window must be None with causal=False, got {sliding_window}: a "
                    "window has earlier positions only"
                )

    @property
    def is_causal(self) -> bool:  # type: ignore[override]
        return self.causal

    @property
    def reads_later(self) -> bool:  # type: ignore[override]
        return not self.causal

    def units_per_head(self, input_dim):
        units = super().units_per_head(input_dim)
        if self.rotary_base is not None and units % 2:
            raise ValueError(
                "head_units must be even with rotary positions, got "
                f"{'' if self.head_units else 'the width of the inputs / num_heads = '}{units}; "
                "rotary_base=None switches them off"
            )
        return units

    def build(self, input_shape):
        width = last_dimension(f"inputs of {self.name}", input_shape, rank=3)
        self.build_heads(width, width)
        for layer in (self.query_norm, self.key_norm):
            if layer is not None:
                layer.build((None, None, None, self._built_units))

    def call(self, inputs, mask=None, training=False):
        inputs = float_tensor(f"inputs of {self.name}", inputs, self.compute_dtype)
        positions = tf.range(tf.shape(inputs)[1])[None]
        queries, keys, values = self._heads(inputs, positions)
        visible = None if mask is None else tf.expand_dims(tf.cast(mask, tf.bool), 1)
        if self.causal:
            earlier = self._visible(positions[:, None, :], positions[:, :, None])
            visible = earlier if visible is None else earlier & visible
        contexts, _ = attend(queries, keys, values, visible)
        return self.joined(contexts)

    def _visible(self, keys, queries):
        """Whether the query at a position attends to the key at another one: bool, for two
        broadcastable tensors of positions.
        """
        visible = keys <= queries
        if self.sliding_window is not None:
            visible &= keys > queries - self.sliding_window
        return visible

    def _heads(self, inputs, positions):
        """Normalized and rotated queries and keys, and values, of `[B, S, D]` at positions
        `[B or 1, S]`.
        """
        queries, (keys, values) = self.queries(inputs), self.keys_and_values(inputs)
        queries, keys = normalized(self.query_norm, queries), normalized(self.key_norm, keys)
        if self.rotary_base is not None:
            queries, keys = (rotated(x, positions, self.rotary_base) for x in (queries, keys))
        return queries, keys, values

    def initial_state(self, batch_size, max_length=None):
        """Returns an empty `Cache`, with zeros as keys and values.

        Args:
            batch_size: B, an integer or a scalar tensor.
            max_length: L, the maximum number of steps, an integer or a scalar tensor.

        Raises:
            ValueError: if `max_length` is `None`, the layer is not causal, or it is not built.
        """
        self._check_steps()
        if max_length is None:
            raise ValueError(
                f"max_length must be the maximum number of steps, got None: {self.name} caches the "
                "keys and values of all steps"
            )
        if not self.built:
            raise ValueError(f"{self.name} must be built before its first step")
        shape = [batch_size, self.num_key_value_heads, max_length, self._built_units]
        keys, values = tf.zeros(shape, self.compute_dtype), tf.zeros(shape, self.compute_dtype)
        return Cache(tf.zeros([batch_size], tf.int32), keys, values)

    def step(self, inputs, state):
        """Computes one step. The output of a step beyond the length of the cache is NaN.

        Args:
            inputs: `[B, D]` of any numeric type.
            state: a `Cache`.

        Returns:
            Output `[B, D]` and the new `Cache`.

        Raises:
            ValueError: if the layer is not causal.
        """
        self._check_steps()
        inputs = float_tensor(f"inputs of {self.name}", inputs, self.compute_dtype)
        positions = state.position[:, None]
        queries, key, value = self._heads(tf.expand_dims(inputs, 1), positions)
        indices = tf.range(tf.shape(state.keys)[2])
        keys, values = with_step((state.keys, state.values), (key, value), positions)
        contexts, _ = attend(queries, keys, values, self._visible(indices, positions[:, :, None]))
        outputs = self.joined(contexts)[:, 0]
        nan = tf.constant(float("nan"), outputs.dtype)
        outputs = tf.where(positions < tf.size(indices), outputs, nan)
        return outputs, Cache(state.position + 1, keys, values)

    def _check_steps(self):
        if not self.causal:
            raise ValueError(
                f"{self.name} cannot compute single steps: its positions attend to later ones "
                "(causal=False)"
            )

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def kept_for_backward(self, input_dim, steps=0):
        """Bytes kept per position: the input, D values; queries, keys, values and contexts,
        `2·(H + K)·U`; H weights for each of the S positions of the sentence; with `query_key_norm`
        also queries and keys before the normalization, `(H + K)·U`.
        """
        kept = self.kept_by_queries(input_dim, steps) + self.kept_by_keys(input_dim)
        if self.query_key_norm is not None:
            heads = self.num_heads + self.num_key_value_heads
            size = tf.as_dtype(self.compute_dtype).size
            kept += size * heads * self.units_per_head(input_dim)
        return Kept(kept)

    def get_config(self):
        return {
            **super().get_config(),
            "causal": self.causal,
            "rotary_base": self.rotary_base,
            "query_key_norm": self.query_key_norm,
            "query_key_norm_epsilon": self.query_key_norm_epsilon,
            "sliding_window": self.sliding_window,
        }


def with_step(caches, steps, positions):
    """Writes a step into caches. Outside of XLA and exports this writes rows, into a copy where
    TensorFlow needs one, which takes a third of the time of a selection from two tensors.

    Args:
        caches: tensors `[B, K, L, U]`.
        steps: tensors `[B, K, 1, U]`, one for each cache.
        positions: `[B, 1]` int32, where each row writes; from L on, anywhere.
    """
    shape = tf.shape(caches[0])
    length = shape[2]
    if static_shapes():
        here = tf.range(length)[:, None] == positions[:, :, None, None]
        return [tf.where(here, step, cache) for cache, step in zip(caches, steps, strict=True)]
    first = tf.reshape(tf.range(shape[0] * shape[1]) * length, shape[:2])
    rows = tf.reshape(first + tf.minimum(positions, length - 1), [-1, 1])

    def write(cache, step):
        units = cache.shape[3]
        flat, step = tf.reshape(cache, [-1, units]), tf.reshape(step, [-1, units])
        return tf.reshape(tf.tensor_scatter_nd_update(flat, rows, step), shape)

    return [
        tf.ensure_shape(write(cache, step), cache.shape)
        for cache, step in zip(caches, steps, strict=True)
    ]
