"""Random numbers that are the same with and without XLA.

TensorFlow and XLA have the same generator of random bits, Philox (Salmon et al. 2011), but make
other numbers from the bits: TensorFlow makes a uniform number from the lowest bits, XLA from the
highest. Here XLA makes them as TensorFlow does. Outside of XLA the numbers are those of
`keras.random`.
"""

import math

import keras
import tensorflow as tf

from tfmoe.distribute.tensorflow_internals import compiles_for_xla

# The bits of the mantissa, for which TensorFlow takes the lowest bits of 32, and of 64 in float64.
MANTISSA_BITS = {tf.float64: 52, tf.float32: 23, tf.float16: 10, tf.bfloat16: 7}
# TensorFlow's least number in the logarithm of a normal draw.
LEAST = 1e-7


def uniform(shape, low: float = 0.0, high: float = 1.0, *, dtype="float32", seed) -> tf.Tensor:
    """Draws uniform numbers in `[low, high)`.

    Args:
        shape: list of integers and scalar tensors, or an integer tensor.
        low: a number.
        high: a number.
        dtype: a floating-point type.
        seed: a `keras.random.SeedGenerator`.

    Returns:
        `[*shape]` of type `dtype`.
    """
    seeds, dtype = next_seeds(seed), tf.as_dtype(dtype)
    low, high = tf.constant(low, dtype), tf.constant(high, dtype)
    if compiles_for_xla():
        return low + (high - low) * _fractions(shape, seeds, dtype)
    return tf.random.stateless_uniform(shape, seeds, low, high, dtype)


def normal(shape, *, dtype="float32", seed) -> tf.Tensor:
    """Draws numbers of the standard normal distribution.

    Args:
        shape: list of integers and scalar tensors, or an integer tensor.
        dtype: a floating-point type.
        seed: a `keras.random.SeedGenerator`.

    Returns:
        `[*shape]` of type `dtype`.
    """
    seeds, dtype = next_seeds(seed), tf.as_dtype(dtype)
    if not compiles_for_xla():
        return tf.random.stateless_normal(shape, seeds, dtype=dtype)
    shape = tf.convert_to_tensor(shape, tf.int32)
    size = tf.reduce_prod(shape)
    computed_dtype = tf.float64 if dtype == tf.float64 else tf.float32
    pairs = _fractions([(size + 1) // 2, 2], seeds, computed_dtype)
    # Box and Muller 1958.
    radius = tf.sqrt(-2 * tf.math.log(tf.maximum(pairs[:, :1], LEAST)))
    angle = 2 * math.pi * pairs[:, 1:]
    normals = radius * tf.concat([tf.sin(angle), tf.cos(angle)], axis=1)
    return tf.cast(tf.reshape(tf.reshape(normals, [-1])[:size], shape), dtype)


def dropout(x: tf.Tensor, rate: float, *, seed) -> tf.Tensor:
    """Drops elements with probability `rate`, and divides the others by `1 - rate`.

    Args:
        x: floating-point tensor.
        rate: a number, `0 <= rate < 1`.
        seed: a `keras.random.SeedGenerator`.

    Returns:
        A tensor like `x`.
    """
    is_kept = uniform(tf.shape(x), dtype=x.dtype, seed=seed) >= tf.constant(rate, x.dtype)
    return tf.where(is_kept, x * tf.constant(1 / (1 - rate), x.dtype), tf.zeros([], x.dtype))


def next_seeds(generator: keras.random.SeedGenerator) -> tf.Tensor:
    """The two seeds of a draw, `[2]` int32; the next draw gets others."""
    seeds = tf.convert_to_tensor(generator.next())
    return tf.cast(tf.math.floormod(seeds, tf.cast(tf.int32.max - 1, seeds.dtype)), tf.int32)


def _fractions(shape, seeds, dtype):
    """Numbers in `[0, 1)` from the lowest of 32 bits, as many as the mantissa has. In float64 the
    bits are the lowest 20 of one draw, and all of the next.
    """
    num_bits = MANTISSA_BITS[dtype]
    if dtype != tf.float64:
        return _lowest(_bits(shape, seeds), num_bits, dtype)
    bits = _bits(tf.concat([shape, [2]], axis=0), seeds)
    second = tf.cast(bits[..., 1], dtype) * 2.0**-num_bits
    return _lowest(bits[..., 0], num_bits - 32, dtype) + second


def _lowest(bits, num_bits, dtype):
    """The number in `[0, 1)` of the lowest bits."""
    lowest = tf.bitwise.bitwise_and(bits, tf.constant(2**num_bits - 1, tf.uint32))
    return tf.cast(lowest, dtype) * tf.constant(2.0**-num_bits, dtype)


def _bits(shape, seeds):
    """32 random bits for each number, uint32."""
    return tf.random.stateless_uniform(
        shape, seeds, minval=None, maxval=None, dtype=tf.uint32, alg="philox"
    )
