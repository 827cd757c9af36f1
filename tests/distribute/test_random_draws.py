"""The random numbers of layers: those of Keras, with and without XLA."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.distribute import random_draws

SHAPE = [7, 3]
# The rounding of each type. Sines, cosines and logarithms of XLA differ in the last bit.
ROUNDING = {"float32": 0, "bfloat16": 2**-7, "float16": 2**-10, "float64": 0}


def draws(module, dtype, seed):
    x = tf.ones(SHAPE, dtype)
    return [
        module.uniform(SHAPE, -1, 1, dtype=dtype, seed=seed),
        module.normal(SHAPE, dtype=dtype, seed=seed),
        module.dropout(x, 0.3, seed=seed),
    ]


@pytest.fixture(scope="module")
def compiled():
    """The second draws of all types in a function that XLA compiles. Seeds are no constants in it,
    or TensorFlow would draw before XLA compiles.
    """
    seeds = {dtype: keras.random.SeedGenerator(3) for dtype in ROUNDING}

    @tf.function(jit_compile=True, autograph=False)
    def draw():
        return {dtype: draws(random_draws, dtype, seed) for dtype, seed in seeds.items()}

    draw()
    return draw()


@pytest.mark.parametrize("dtype", ROUNDING)
def test_draws_are_those_of_keras_with_and_without_xla(dtype, compiled):
    seeds = [keras.random.SeedGenerator(3) for _ in range(2)]
    for _ in range(2):
        expected, plain = draws(keras.random, dtype, seeds[0]), draws(random_draws, dtype, seeds[1])
    for keras_draw, draw, draw_of_xla in zip(expected, plain, compiled[dtype], strict=True):
        np.testing.assert_array_equal(draw, keras_draw)
        values = (tf.cast(x, tf.float64) for x in (draw_of_xla, keras_draw))
        np.testing.assert_allclose(*values, rtol=ROUNDING[dtype], atol=4e-6)
