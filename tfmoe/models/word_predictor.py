"""Base class of language and translation models, which predict a word at each position.

Axes: B batch, S steps, T real (not padded) positions, D model, V vocabulary.
"""

from typing import NamedTuple

import keras
import tensorflow as tf

from tfmoe.distribute import is_mixed, on_one_device
from tfmoe.distribute.collectives import all_reduce_sum, all_reduce_sums, num_replicas
from tfmoe.distribute.static_shapes import static_shapes
from tfmoe.distribute.table_gradients import sum_repeated_rows
from tfmoe.models.blocks import PADDING
from tfmoe.models.perplexity import Perplexity
from tfmoe.ops.tracking import track

END = PADDING
START, UNKNOWN = 1, 2


class Table(NamedTuple):
    """A table with a row for each word, of which a training step uses some rows.

    Attributes:
        width: numbers in a row.
        words: number of words that a device looks up in a step, repeated ones included.
        candidates: number of different words that all devices look up in addition.
    """

    width: int
    words: int
    candidates: int = 0


class WordPredictor(keras.Model):
    """Base class of models that apply a softmax over words to the features at each position.

    A subclass sets `vocabulary_size`, `d_model`, `embedding`, `dropout`, `blocks` (a list of
    `tfmoe.layers.Block`) and `softmax` (a `tfmoe.layers.VocabularySoftmax`), returns features
    `[B, S, D]` when called, and implements `predicting_tokens`.

    The model trains on batches `(inputs, targets)` with targets `[B, S]` int32. The loss is the
    mean over real positions plus the losses that layers add. `compile` needs an optimizer and no
    loss.

    Logs of `fit` and `evaluate`:
        loss: nats per word plus the losses that layers add. Every word of the epoch or evaluation
            counts once, and so does the end of each sentence; the losses of layers are averaged
            over the batches, weighted by their words. The mixtures of this package add balancing
            losses in training only, so `exp(val_loss)` is the perplexity. With `num_sampled`,
            training measures the sampled loss, which is smaller than the full one: see
            `VocabularySoftmax.training_loss`.
        perplexity: per word, by the full softmax; measured in evaluations only.
        words: number of real positions, source positions included.

    Attributes:
        counts_gates, counts_softmax: whether the paper's ops/timestep for this kind of model
            include the gates' matrices and the softmax.
        words_per_timestep: words read per timestep.
        final_norm: normalization of the output of each stack of blocks, `"rms"`, `"layer"` or
            `None`.
        tie_embeddings: whether the softmax has the matrix of the embedding.
    """

    counts_gates = True
    counts_softmax = False
    words_per_timestep = 1
    final_norm: str | None = None
    tie_embeddings = False

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.perplexity = Perplexity()
        self.words = keras.metrics.Sum(name="words", dtype="float64")
        track(self, perplexity=self.perplexity, words=self.words)

    @property
    def _loss_tracker(self):
        """Keras' running mean of the loss, in float64.

        `compile` creates it in float32, which is too coarse for a sum over the words of an epoch.
        """
        return self._mean_loss

    @_loss_tracker.setter
    def _loss_tracker(self, tracker):
        if tracker is not None:
            tracker = keras.metrics.Mean(name=tracker.name, dtype="float64")
        self._mean_loss = tracker

    def predicting_tokens(self, inputs):
        """The tokens `[B, S]` int32 at whose positions a target is predicted, 0 for padding."""
        raise NotImplementedError

    def tokens_by_block(self, inputs):
        """The input tokens `[B, S]` of each block, a list in the order of `blocks`."""
        return [inputs] * len(self.blocks)

    def positions_by_block(self, positions):
        """The number of positions that each block processes, a list in the order of `blocks`.

        Args:
            positions: number of positions in a batch, source positions included.
        """
        return [positions] * len(self.blocks)

    def predicting_positions(self, positions):
        """The number of positions that predict a word.

        Args:
            positions: number of positions in a batch, source positions included.
        """
        return positions

    def tables(self, positions: int) -> list[Table]:
        """The tables of which a training step uses some rows. A full softmax uses all rows.

        Args:
            positions: number of positions in a batch, source positions included.
        """
        embedding = Table(self.d_model, positions)
        candidates = self.softmax.num_candidates
        if candidates is None:
            return [] if self.tie_embeddings else [embedding]
        words = self.predicting_positions(positions)
        tables = [Table(1, words, candidates)] if self.softmax.use_bias else []
        if self.tie_embeddings:
            return [Table(self.d_model, positions + words, candidates), *tables]
        return [embedding, Table(self.d_model, words, candidates), *tables]

    def kept_of_source(self, positions):
        """Bytes that blocks keep for the backward pass about source positions they attend to.

        Blocks keep these in addition to the activations of the positions that they process.

        Args:
            positions: number of positions in a batch, source positions included.
        """
        return 0

    def word_logits(self, features: tf.Tensor) -> tf.Tensor:
        """Logits of the next word.

        Args:
            features: `[..., D]`, the model's output.

        Returns:
            `[..., V]` float32.
        """
        flat = self.softmax(tf.reshape(features, [-1, self.d_model]))
        return tf.reshape(flat, tf.concat([tf.shape(features)[:-1], [self.vocabulary_size]], 0))

    def real_positions(self, inputs, targets, features):
        """`[T, D]` features and `[T]` targets of the positions that are not padding."""
        positions = tf.where(tf.not_equal(self.predicting_tokens(inputs), PADDING))
        return tf.gather_nd(features, positions), tf.gather_nd(targets, positions)

    def _word_losses(self, loss, inputs, targets, features):
        """The losses of the words of a batch.

        Args:
            loss: a function of features `[T, D]` and targets `[T]` that returns `[T]` losses.
            inputs: the model's inputs.
            targets: `[B, S]`.
            features: `[B, S, D]`.

        Returns:
            `[T]` losses, and the number of words T. With `static_shapes`, losses of all positions,
            `[B·S]`, 0 for padding.
        """
        if not static_shapes():
            values = loss(*self.real_positions(inputs, targets, features))
            return values, tf.size(values)
        is_word = tf.reshape(tf.not_equal(self.predicting_tokens(inputs), PADDING), [-1])
        values = loss(tf.reshape(features, [-1, self.d_model]), tf.reshape(targets, [-1]))
        return tf.where(is_word, values, 0), tf.reduce_sum(tf.cast(is_word, tf.int32))

    def negative_log_likelihood(self, inputs, targets: tf.Tensor) -> tf.Tensor:
        """`-log p(target)` of every real position, by the full softmax.

        Args:
            inputs: the model's inputs, as in a call.
            targets: `[B, S]` int32.

        Returns:
            `[T]` float32, in nats, in reading order.
        """
        features, targets = self.real_positions(inputs, targets, self(inputs, training=False))
        return self.softmax.negative_log_likelihood(features, targets)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The loss of a batch. Under a strategy, the replicas' losses sum to the batch's loss.

        Every word of the global batch has the same weight, whatever its replica.

        Raises:
            ValueError: if `sample_weight` is given.
        """
        if sample_weight is not None:
            raise ValueError(
                f"sample_weight must be None: {type(self).__name__} gives all real words the same "
                "weight"
            )
        softmax = self.softmax
        loss = softmax.training_loss if training else softmax.negative_log_likelihood
        values, num_words = self._word_losses(loss, x, y, y_pred)
        if not training:
            self.perplexity.update_state(values, num_words)
        self.words.update_state(sum(tf.math.count_nonzero(ids) for ids in tf.nest.flatten(x)))
        num_words = all_reduce_sum(tf.cast(num_words, values.dtype))
        # The losses of layers are computed from the global batch: equal on every replica.
        layer_losses = sum(tf.cast(loss, values.dtype) for loss in self.losses)
        word_loss = tf.math.divide_no_nan(tf.reduce_sum(values), num_words)
        return word_loss + layer_losses / num_replicas()

    def make_train_function(self, force=False):
        """Builds the optimizer first: a step that creates variables would be traced twice."""
        optimizer = getattr(self, "optimizer", None)
        if self.built and optimizer is not None and not optimizer.built:
            with self.distribute_strategy.scope():
                optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    def train_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            features = self(x, training=True)
            loss = self.compute_loss(x, y, features, sample_weight)
            scaled_loss = self.optimizer.scale_loss(loss)
        self._track_loss(x, loss)
        gradients = sum_repeated_rows(tape.gradient(scaled_loss, self.trainable_weights))
        self.optimizer.apply(gradients, self.trainable_weights)
        logs = self.get_metrics_result()
        logs.pop(self.perplexity.name, None)  # measured in evaluation only
        return logs

    def test_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        features = self(x, training=False)
        self._track_loss(x, self.compute_loss(x, y, features, sample_weight, training=False))
        return self.get_metrics_result()

    def _track_loss(self, x, loss):
        """Adds a batch's loss to the running mean, weighted by its words."""
        words = tf.math.count_nonzero(self.predicting_tokens(x))
        loss, words = all_reduce_sums(loss, tf.cast(words, loss.dtype))
        # Every replica adds the same value: with this weight they count once together.
        self._loss_tracker.update_state(loss, sample_weight=words / num_replicas())

    def export(self, filepath, *args, **kwargs):
        """Exports the model as `keras.Model.export` does.

        A model of a `MixedStrategy` is exported as a copy with unsharded weights.
        """
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
            logs.pop(self.perplexity.name)  # training does not measure it
        return logs
