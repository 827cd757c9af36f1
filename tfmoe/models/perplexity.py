"""Perplexity per word."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("tfmoe")
class Perplexity(keras.metrics.Metric):
    """Perplexity per word, `exp(Σ -log p(word) / word count)`, over all words of an evaluation.

    Every word counts once, whatever its batch. The sums are float64: in float32, a sum over
    millions of words would lose digits that are reported.

    Args:
        name: name of the metric.
    """

    def __init__(self, name: str = "perplexity", **kwargs):
        super().__init__(name=name, **kwargs)
        self.total = self.add_weight(name="total", shape=(), dtype="float64", initializer="zeros")
        self.count = self.add_weight(name="count", shape=(), dtype="float64", initializer="zeros")

    def update_state(self, negative_log_likelihood: tf.Tensor, num_words: tf.Tensor | None = None):
        """Adds the words of a batch.

        Args:
            negative_log_likelihood: `[T]` float, `-log p(word)` of each word, in nats; 0 for
                padding.
            num_words: scalar, the number of words; `None` for T.
        """
        values = tf.cast(negative_log_likelihood, tf.float64)
        num_words = tf.size(values) if num_words is None else num_words
        self.total.assign_add(tf.reduce_sum(values))
        self.count.assign_add(tf.cast(num_words, tf.float64))

    def result(self) -> tf.Tensor:
        return tf.exp(tf.math.divide_no_nan(self.total.value, self.count.value))
