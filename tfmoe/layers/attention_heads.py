"""The base class of attention with several heads: projections, costs, config.

Axes: B batch, S steps, D model, H heads of queries, K heads of keys and values, U units of a head.
"""

import keras
import tensorflow as tf

from tfmoe.layers.block import Block
from tfmoe.layers.initializers import independent
from tfmoe.ops import arguments
from tfmoe.ops.attention import join_heads, split_heads


class AttentionHeads(Block):
    """Base class of multi-head attention: `y = concat(heads)·W_O`, where each head attends with
    `x·W_Q`, `m·W_K`, `m·W_V` (Vaswani et al. 2017). m is x in self-attention and the source in
    cross-attention.

    Args:
        num_heads: H, number of heads of the queries.
        num_key_value_heads: K, number of heads of keys and values, a divisor of H: H / K heads
            share keys and values; `None` for H.
        head_units: U, width of a head; `None` for D / H.
        use_bias: whether the four projections have biases.
        kernel_initializer: a Keras initializer, or a function of shape and dtype.

    Raises:
        ValueError: an argument is out of range; in `build`, H does not divide D.
    """

    def __init__(
        self, num_heads, num_key_value_heads, head_units, use_bias, kernel_initializer, **kwargs
    ):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.num_heads = arguments.positive("num_heads", num_heads)
        self.num_key_value_heads = self.num_heads
        if num_key_value_heads is not None:
            heads = arguments.positive("num_key_value_heads", num_key_value_heads)
            if self.num_heads % heads:
                raise ValueError(
                    "num_key_value_heads must be a divisor of num_heads, got "
                    f"{heads} for num_heads={self.num_heads}"
                )
            self.num_key_value_heads = heads
        self.head_units = None
        if head_units is not None:
            self.head_units = arguments.positive("head_units", head_units)
        self.use_bias = arguments.boolean("use_bias", use_bias)
        self.kernel_initializer = arguments.initializer("kernel_initializer", kernel_initializer)

    def units_per_head(self, input_dim: int) -> int:
        """U for inputs of width D.

        Args:
            input_dim: D.

        Raises:
            ValueError: if `head_units` is `None` and H does not divide D.
        """
        if self.head_units is None and input_dim % self.num_heads:
            raise ValueError(
                f"num_heads must be a divisor of the width of the inputs, {input_dim}, got "
                f"{self.num_heads}; or set head_units"
            )
        return self.head_units or input_dim // self.num_heads

    def build_heads(self, input_dim, memory_dim):
        """Creates the four projections, for inputs and a memory of these widths."""
        self.input_spec = keras.layers.InputSpec(ndim=3, axes={-1: input_dim})
        units = self.units_per_head(input_dim)
        self._built_units = units
        self.query = self._projection("query", input_dim, self.num_heads * units)
        self.key = self._projection("key", memory_dim, self.num_key_value_heads * units)
        self.value = self._projection("value", memory_dim, self.num_key_value_heads * units)
        self.projection = self._projection("projection", self.num_heads * units, input_dim)

    def _projection(self, name, input_dim, width):
        layer = keras.layers.Dense(
            width,
            use_bias=self.use_bias,
            kernel_initializer=independent(self.kernel_initializer),
            name=name,
            dtype=self.dtype_policy,
        )
        layer.build((None, input_dim))
        return layer

    def queries(self, inputs):
        """`[B, S, D]` to `[B, H, S, U]`."""
        return split_heads(self.query(inputs), self.num_heads)

    def keys_and_values(self, memory):
        """`[B, S, D]` to two tensors `[B, K, S, U]`."""
        return tuple(
            split_heads(layer(memory), self.num_key_value_heads) for layer in (self.key, self.value)
        )

    def joined(self, contexts):
        """`[B, H, S, U]` to the layer's output, `[B, S, D]`."""
        return self.projection(join_heads(contexts))

    def ops_per_timestep(self, input_dim):
        """Multiply-adds for one token: the four projections, `2·D·(H + K)·U`. As in the paper's
        count, products without weights (queries with keys, weights with values) are not included:
        these are `2·H·U` for each position that a token attends to.
        """
        heads = self.num_heads + self.num_key_value_heads
        return 2 * input_dim * heads * self.units_per_head(input_dim)

    def kept_by_queries(self, input_dim, steps):
        """Bytes kept per position: the input, D values; queries and contexts, `2·H·U`; H weights
        for each of the positions that it attends to, at least in float32, and in the compute dtype
        if that is smaller.
        """
        size, units = tf.as_dtype(self.compute_dtype).size, self.units_per_head(input_dim)
        per_weight = size if size >= 4 else 4 + size
        num_values = input_dim + 2 * self.num_heads * units
        return size * num_values + per_weight * self.num_heads * steps

    def kept_by_keys(self, input_dim):
        """Bytes kept per position that is attended to: keys and values, `2·K·U` values."""
        units = self.units_per_head(input_dim)
        return tf.as_dtype(self.compute_dtype).size * 2 * self.num_key_value_heads * units

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_units": self.head_units,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
