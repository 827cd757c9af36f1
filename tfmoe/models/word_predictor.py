"""What language models and translation models have in common: each position predicts a word.

Axes: B batch, S steps, T real (not padded) positions, D model, V vocabulary.
"""

import keras
import tensorflow as tf

from tfmoe.distribute import is_mixed, on_one_device
from tfmoe.distribute.collectives import all_reduce_sum, all_reduce_sums, num_replicas
from tfmoe.models.perplexity import Perplexity
from tfmoe.ops.tracking import track

PADDING = END = 0
START, UNKNOWN = 1, 2


class WordPredictor(keras.Model):
    """Base class of models whose features at each position go through a softmax over words.

    A subclass sets `vocabulary_size`, `d_model`, `embedding`, `dropout`, `blocks` (a list of
    `tfmoe.layers.Block`) and `softmax`, a `tfmoe.layers.VocabularySoftmax`, gives features
    `[B, S, D]` when called, and implements `predicting_tokens`.

    Trained on batches `(inputs, targets)`, targets `[B, S]` int32: the loss is the mean over real
    positions plus the losses that layers add. `compile` needs an optimizer and no loss.

    Logs of `fit` and `evaluate`:
        loss: nats per word, each word of the epoch or evaluation counted once, the end of a
            sentence too; plus the mean of the losses that layers add, each batch by its words. The
            mixtures of this package add balancing losses in training and nothing in evaluation, so
            that `exp(val_loss)` is the perplexity. In training with `num_sampled` the nats are of
            the sampled loss, which is smaller than the full one: see
            `VocabularySoftmax.training_loss`.
        perplexity: per word, by the full softmax; of evaluations only.
        words: real positions, those of a source included.

    Attributes:
        counts_gates, counts_softmax: whether the paper's ops/timestep of such a model counts the
            matrices of gates, and the softmax.
        words_per_timestep: words that a timestep reads.
    """

    counts_gates = True
    counts_softmax = False
    words_per_timestep = 1

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.perplexity = Perplexity()
        self.words = keras.metrics.Sum(name="words", dtype="float64")
        track(self, perplexity=self.perplexity, words=self.words)

    @property
    def _loss_tracker(self):
        """Keras' mean of the loss, which `compile` makes in float32: sums over the words of an
        epoch need float64.
        """
        return self._mean_loss

    @_loss_tracker.setter
    def _loss_tracker(self, tracker):
        if tracker is not None:
            tracker = keras.metrics.Mean(name=tracker.name, dtype="float64")
        self._mean_loss = tracker

    def predicting_tokens(self, inputs):
        """`[B, S]` int32, the tokens at whose positions a target is predicted, 0 for padding."""
        raise NotImplementedError

    def tokens_by_block(self, inputs):
        """The tokens `[B, S]` whose positions each block sees: a list, in the order of `blocks`."""
        return [inputs] * len(self.blocks)

    def positions_by_block(self, positions):
        """How many of a batch's positions each block sees, in the order of `blocks`.

        Args:
            positions: of a batch, those of a source included.
        """
        return [positions] * len(self.blocks)

    def predicting_positions(self, positions):
        """How many of a batch's positions predict a word."""
        return positions

    def kept_of_source(self, positions):
        """Bytes that blocks keep of the source's positions for the backward pass, beside what
        they keep of the positions that they see.
        """
        return 0

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
        """The loss of the batch; under a strategy a replica's share, all of which sum up to it.

        Words count alike in the whole batch, however many of them a replica has.
        """
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
        number = all_reduce_sum(tf.cast(tf.size(values), values.dtype))
        # Those of layers are the same on every replica: each is the global batch's.
        added = sum(tf.cast(loss, values.dtype) for loss in self.losses)
        return tf.math.divide_no_nan(tf.reduce_sum(values), number) + added / num_replicas()

    def train_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            features = self(x, training=True)
            loss = self.compute_loss(x, y, features, sample_weight)
            scaled_loss = self.optimizer.scale_loss(loss)
        self._track_loss(x, loss)
        gradients = tape.gradient(scaled_loss, self.trainable_weights)
        self.optimizer.apply(gradients, self.trainable_weights)
        logs = self.get_metrics_result()
        logs.pop(self.perplexity.name, None)  # measured by evaluation only
        return logs

    def test_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        features = self(x, training=False)
        self._track_loss(x, self.compute_loss(x, y, features, sample_weight, training=False))
        return self.get_metrics_result()

    def _track_loss(self, x, loss):
        """Adds a batch's loss to the mean, in which it counts by its words."""
        words = tf.math.count_nonzero(self.predicting_tokens(x))
        loss, words = all_reduce_sums(loss, tf.cast(words, loss.dtype))
        # All replicas add the same; together they count once.
        self._loss_tracker.update_state(loss, sample_weight=words / num_replicas())

    def export(self, filepath, *args, **kwargs):
        """As `keras.Model.export`; of a model of a `MixedStrategy` a copy with whole weights."""
        if is_mixed(self.distribute_strategy):
            return on_one_device(self).export(filepath, *args, **kwargs)
        return super().export(filepath, *args, **kwargs)

    def get_metrics_result(self):
        logs = super().get_metrics_result()
        if (
            tf.executing_eagerly()
            and self.words.total.numpy()
            and not self.perplexity.count.numpy()
        ):
            logs.pop(self.perplexity.name)  # after training, which does not measure it
        return logs
