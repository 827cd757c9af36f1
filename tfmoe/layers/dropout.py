"""Dropout that drops the same elements with and without XLA."""

import keras

from tfmoe.distribute import random_draws


@keras.saving.register_keras_serializable("tfmoe")
class Dropout(keras.layers.Dropout):
    """`keras.layers.Dropout` with the draws of `tfmoe.distribute.random_draws`."""

    def call(self, inputs, training=False):
        if not training or not self.rate:
            return inputs
        return random_draws.dropout(inputs, self.rate, seed=self.seed_generator)
