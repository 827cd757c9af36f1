"""Perplexity per word."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("tfmoe")
class Perplexity(keras.metrics.Metric):
    """`exp(Σ -log p(word) / number of words)`, over all words of an evaluation, each counted once.

    Kept in float64: the sum over millions of words of float32 would lose the digits that are
    reported.
    """

    def __init__(self, name="perplexity", **kwargs):
        super().__init__(name=name, **kwargs)
        self.total = self.add_weight(name="total", shape=(), dtype="float64", initializer="zeros")
        self.count = self.add_weight(name="count", shape=(), dtype="float64", initializer="zeros")

    def update_state(self, negative_log_likelihood):
        """Adds words.

        Args:
            negative_log_likelihood: `[T]` float, in nats.
        """
        values = tf.cast(negative_log_likelihood, tf.float64)
        self.total.assign_add(tf.reduce_sum(values))
        self.count.assign_add(tf.cast(tf.size(values), tf.float64))

    def result(self):
        return tf.exp(tf.math.divide_no_nan(self.total.value, self.count.value))
