"""Dropout that drops the same elements with and without XLA."""

import keras

from tfmoe.distribute import random_draws


@keras.saving.register_keras_serializable("tfmoe")
class Dropout(keras.layers.Dropout):
    """`keras.layers.Dropout` with the draws of `tfmoe.distribute.random_draws`.

    Raises:
        ValueError: if `noise_shape` is given, which it does not have.
    """

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        if self.noise_shape is not None:
            raise ValueError(f"noise_shape must be None, got {self.noise_shape}")

    def call(self, inputs, training=False):
        if not training or not self.rate:
            return inputs
        return random_draws.dropout(inputs, self.rate, seed=self.seed_generator)
