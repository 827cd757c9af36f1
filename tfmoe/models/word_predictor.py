"""What language models and translation models have in common: each position predicts a word.

Axes: B batch, S steps, T real (not padded) positions, D model, V vocabulary.
"""

import keras
import tensorflow as tf

from tfmoe.models.perplexity import Perplexity

PADDING = 0


class WordPredictor(keras.Model):
    """Base class of models whose features at each position go through a softmax over words.

    A subclass sets `vocabulary_size`, `d_model` and `softmax`, a
    `tfmoe.layers.VocabularySoftmax`, gives features `[B, S, D]` when
    called, and implements `predicting_tokens`.

    Trained on batches `(inputs, targets)`, targets `[B, S]` int32: the loss is the mean over real
    positions plus the losses that layers add. `compile` needs an optimizer and no loss. `evaluate`
    gives `perplexity` per word, the end of the sentence counted. `words` is the number of real
    positions of an epoch or an evaluation, those of a source included.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.perplexity = Perplexity()
        self.words = keras.metrics.Sum(name="words", dtype="float64")

    def predicting_tokens(self, inputs):
        """`[B, S]` int32, the tokens at whose positions a target is predicted, 0 for padding."""
        raise NotImplementedError

    def word_logits(self, features):
        """`[..., D]` features to `[..., V]` float32 logits of the next word."""
        flat = self.softmax(tf.reshape(features, [-1, self.d_model]))
        return tf.reshape(flat, tf.concat([tf.shape(features)[:-1], [self.vocabulary_size]], 0))

    def real_positions(self, inputs, targets, features):
        """`[T, D]` features and `[T]` targets of the positions that are not padding."""
        positions = tf.where(tf.not_equal(self.predicting_tokens(inputs), PADDING))
        return tf.gather_nd(features, positions), tf.gather_nd(targets, positions)

    def negative_log_likelihood(self, inputs, targets):
        """`-log p(target)` of every real position, by the full softmax.

        Args:
            inputs: as for a call.
            targets: `[B, S]` int32.

        Returns:
            `[T]` float32, in nats, in reading order.
        """
        features, targets = self.real_positions(inputs, targets, self(inputs, training=False))
        return self.softmax.negative_log_likelihood(features, targets)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if sample_weight is not None:
            raise ValueError(
                f"{type(self).__name__} weighs every real word alike: sample_weight must be None"
            )
        features, targets = self.real_positions(x, y, y_pred)
        if training:
            values = self.softmax.training_loss(features, targets)
        else:
            values = self.softmax.negative_log_likelihood(features, targets)
            self.perplexity.update_state(values)
        every = tf.nest.flatten(x)
        self.words.update_state(sum(tf.math.count_nonzero(tokens) for tokens in every))
        added = [tf.cast(loss, values.dtype) for loss in self.losses]
        number = tf.cast(tf.size(values), values.dtype)
        return tf.math.divide_no_nan(tf.reduce_sum(values), number) + sum(added)

    def train_step(self, data):
        logs = super().train_step(data)
        logs.pop(self.perplexity.name)  # measured by evaluation only
        return logs
